// Durations as operators write them: 90s, 15m, 6h, 7d.

const UNIT: Record<string, number> = { s: 1e3, m: 60e3, h: 3600e3, d: 86400e3, w: 7 * 86400e3 };

/** Milliseconds of "15m", or null when it is none. At most 400 days. */
export function parseDuration(s: string): number | null {
  const m = /^(\d{1,6})([smhdw])$/.exec(s.trim());
  if (!m) return null;
  const ms = Number(m[1]) * UNIT[m[2]!]!;
  return ms > 0 && ms <= 400 * 86400e3 ? ms : null;
}

/** The shortest way to write ms with one unit; falls back to seconds. */
export function writeDuration(ms: number): string {
  for (const [u, n] of [
    ['d', 86400e3],
    ['h', 3600e3],
    ['m', 60e3],
  ] as const) {
    if (ms >= n && ms % n === 0) return `${ms / n}${u}`;
  }
  return `${Math.max(1, Math.round(ms / 1000))}s`;
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** The step of a chart over windowMs with at most maxPoints points, in ms. */
export function stepFor(windowMs: number, maxPoints = 360): number {
  for (const s of STEPS) if (windowMs / (s * 1000) <= maxPoints) return s * 1000;
  return STEPS.at(-1)! * 1000;
}
