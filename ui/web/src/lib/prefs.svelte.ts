// What this browser remembers: theme, language is in i18n, and whether single-key shortcuts are on.

export type ThemeChoice = 'system' | 'light' | 'dark';

function read(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}
export function remember(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Private windows may refuse; the choice then lasts as long as the page.
  }
}
export const recall = read;

const media = matchMedia('(prefers-color-scheme: dark)');

class Prefs {
  #choice = $state<ThemeChoice>('system');
  #systemDark = $state(media.matches);
  #keys = $state(read('triward.keys') !== 'off');

  constructor() {
    const c = read('triward.theme');
    if (c === 'light' || c === 'dark') this.#choice = c;
    media.addEventListener('change', (e) => {
      this.#systemDark = e.matches;
      this.#apply();
    });
    this.#apply();
  }
  get theme(): ThemeChoice {
    return this.#choice;
  }
  set theme(c: ThemeChoice) {
    this.#choice = c;
    remember('triward.theme', c);
    this.#apply();
  }
  get dark(): boolean {
    return this.#choice === 'dark' || (this.#choice === 'system' && this.#systemDark);
  }
  get keys(): boolean {
    return this.#keys;
  }
  set keys(on: boolean) {
    this.#keys = on;
    remember('triward.keys', on ? 'on' : 'off');
  }
  #apply(): void {
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light';
  }
}

export const prefs = new Prefs();
