// What a list of a page asks again and again while it is shown and seen.
import { ApiError, isAbort, messageOf } from './api';

export class Polled<T> {
  data = $state.raw<T | null>(null);
  failed = $state('');
  /** What the last change said when it was refused. */
  note = $state('');
  readonly #ask: (signal?: AbortSignal) => Promise<T>;

  constructor(ask: (signal?: AbortSignal) => Promise<T>) {
    this.#ask = ask;
  }
  async load(signal?: AbortSignal): Promise<void> {
    try {
      this.data = await this.#ask(signal);
      this.failed = '';
    } catch (e) {
      if (!isAbort(e)) this.failed = messageOf(e);
    }
  }
  /** Asks at once and every so often from then on; returns what ends it. */
  start(everyMs = 5000): () => void {
    const abort = new AbortController();
    void this.load(abort.signal);
    const timer = setInterval(() => {
      if (!document.hidden) void this.load(abort.signal);
    }, everyMs);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }
  /** Makes a change and shows what came of it. */
  async act(what: () => Promise<unknown>): Promise<boolean> {
    this.note = '';
    let good = true;
    try {
      await what();
    } catch (e) {
      good = false;
      this.note = messageOf(e) + (e instanceof ApiError && e.hint ? ` (${e.hint})` : '');
    }
    await this.load();
    return good;
  }
}
