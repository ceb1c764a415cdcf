// The one global time range. Relative ranges stay relative ("range=6h"); a drag on a chart makes it absolute
// ("from=…&to=…", milliseconds). Live follows the clock and needs a relative range.
import { parseDuration, writeDuration } from './duration';
import { router } from './router.svelte';

export const PRESETS = ['5m', '15m', '30m', '1h', '3h', '6h', '12h', '1d', '2d', '7d', '30d'];
export const DEFAULT_RANGE = '1h';
const MIN_WINDOW = 10_000;
const MAX_WINDOW = 400 * 86400e3;

class TimeRange {
  /** The relative range as written, or null when the range is absolute. */
  get relative(): string | null {
    if (this.absolute) return null;
    const r = router.q('range');
    return r && parseDuration(r) !== null ? r : DEFAULT_RANGE;
  }
  get absolute(): { from: number; to: number } | null {
    const from = Number(router.q('from'));
    const to = Number(router.q('to'));
    if (!router.q('from') || !router.q('to') || !Number.isFinite(from) || !Number.isFinite(to)) return null;
    return to - from >= 1 ? { from, to } : null;
  }
  get windowMs(): number {
    const a = this.absolute;
    return a ? a.to - a.from : parseDuration(this.relative!)!;
  }
  get live(): boolean {
    return !this.absolute && router.q('live') !== '0';
  }
  /** The range as instants; a relative one ends at `now`. */
  resolve(now = Date.now()): { from: number; to: number } {
    return this.absolute ?? { from: now - this.windowMs, to: now };
  }

  setRelative(range: string): void {
    const v = range === DEFAULT_RANGE ? null : range;
    router.setQuery({ range: v, from: null, to: null, live: null });
  }
  setAbsolute(from: number, to: number): void {
    let [a, b] = from <= to ? [from, to] : [to, from];
    if (b - a < MIN_WINDOW) {
      const mid = (a + b) / 2;
      a = mid - MIN_WINDOW / 2;
      b = mid + MIN_WINDOW / 2;
    }
    router.setQuery({ range: null, live: null, from: String(Math.round(a)), to: String(Math.round(b)) });
  }
  setLive(on: boolean): void {
    if (!on) router.setQuery({ live: '0' });
    else if (this.absolute) {
      const r = PRESETS.find((p) => parseDuration(p)! >= this.windowMs) ?? PRESETS.at(-1)!;
      this.setRelative(r);
    } else router.setQuery({ live: null });
  }
  /** Moves by half a window: -1 into the past, +1 towards now. */
  shift(direction: -1 | 1): void {
    const { from, to } = this.resolve();
    const half = (to - from) / 2;
    const end = Math.min(Date.now(), to + direction * half);
    this.setAbsolute(end - (to - from), end);
  }
  /** Zooms around the middle (absolute) or around now (relative): factor 0.5 in, 2 out. */
  zoom(factor: number): void {
    const window = Math.min(MAX_WINDOW, Math.max(MIN_WINDOW, this.windowMs * factor));
    const a = this.absolute;
    if (a) {
      const mid = (a.from + a.to) / 2;
      const to = Math.min(Date.now(), mid + window / 2);
      this.setAbsolute(to - window, to);
    } else {
      const i = PRESETS.findIndex((p) => parseDuration(p)! >= this.windowMs);
      const next = PRESETS[factor < 1 ? i - 1 : i + 1];
      this.setRelative(next ?? writeDuration(window));
    }
  }
}

export const time = new TimeRange();
