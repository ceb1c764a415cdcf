// Facts about the window that layout needs in script, and a clock that ticks once a second.
const narrowMedia = matchMedia('(max-width: 767px)');

class Screen {
  narrow = $state(narrowMedia.matches);
  now = $state(Date.now());
  constructor() {
    narrowMedia.addEventListener('change', (e) => {
      this.narrow = e.matches;
    });
    setInterval(() => {
      if (!document.hidden) this.now = Date.now();
    }, 1000);
  }
}
export const screen = new Screen();
