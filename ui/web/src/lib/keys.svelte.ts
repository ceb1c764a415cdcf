// Keyboard: global keys here, keys of a page registered by it. Nothing fires while somebody types.
import { prefs } from './prefs.svelte';
import { link, router } from './router.svelte';
import { time } from './time.svelte';

type Handler = (e: KeyboardEvent) => void;
const CHORD_MS = 1200;

class Keys {
  help = $state(false);
  timeMenu = $state(false);
  #page = new Map<string, Handler>();
  #chordAt = 0;

  /** Registers keys of the page in view; returns the undo. */
  on(map: Record<string, Handler>): () => void {
    for (const [k, h] of Object.entries(map)) this.#page.set(k, h);
    return () => {
      for (const [k, h] of Object.entries(map)) if (this.#page.get(k) === h) this.#page.delete(k);
    };
  }
  install(): () => void {
    const f = (e: KeyboardEvent) => this.#handle(e);
    addEventListener('keydown', f);
    return () => removeEventListener('keydown', f);
  }

  #handle(e: KeyboardEvent): void {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
    if (typing(e) || !prefs.keys || document.querySelector('[role="menu"],[role="dialog"][data-modal]'))
      return;
    if (performance.now() - this.#chordAt < CHORD_MS) {
      this.#chordAt = 0;
      const to = { o: '/', h: '/?find=1', a: '/alerts', l: '/logs', m: '/explore', c: '/cluster' }[e.key];
      if (to) {
        e.preventDefault();
        if (e.key === 'h') router.go(link('/', { find: '1' }));
        else router.go(link(to));
        return;
      }
    }
    const own = this.#page.get(e.key);
    if (own) {
      own(e);
      return;
    }
    const global: Record<string, () => void> = {
      g: () => {
        this.#chordAt = performance.now();
      },
      '?': () => {
        this.help = true;
      },
      '/': () => document.querySelector<HTMLElement>('[data-search]')?.focus(),
      '[': () => time.shift(-1),
      ']': () => time.shift(1),
      '+': () => time.zoom(0.5),
      '=': () => time.zoom(0.5),
      '-': () => time.zoom(2),
      l: () => time.setLive(!time.live),
      t: () => {
        this.timeMenu = true;
      },
    };
    const h = global[e.key];
    if (h) {
      e.preventDefault();
      h();
    }
  }
}

function typing(e: KeyboardEvent): boolean {
  const el = e.composedPath()[0] as HTMLElement | undefined;
  if (!el?.tagName) return false;
  return el.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(el.tagName);
}

export const keys = new Keys();
