// A sliding window of aligned columns: what one PromQL subscription or one range query shows. Points that did
// not come are null; a series that ends keeps its past and shows null.

export type Labels = Record<string, string>;
export interface Columns {
  /** First instant, ms. */
  t0: number;
  step: number;
  labels: Labels[];
  v: (number | null)[][];
}

export const EMPTY: Columns = { t0: 0, step: 0, labels: [], v: [] };
const MAX_SERIES = 500;

export function keyOf(labels: Labels): string {
  return JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));
}
export function points(c: Columns): number {
  return c.v[0]?.length ?? 0;
}
export function lastTime(c: Columns): number {
  return c.t0 + (points(c) - 1) * c.step;
}

function num(x: unknown): number | null {
  return typeof x === 'number' && Number.isFinite(x) ? x : null;
}
function labelsOf(s: unknown): Labels {
  const o = s as { labels?: Labels } | null;
  return o?.labels ?? (o as unknown as Labels) ?? {};
}

/** A snapshot of the live socket. Columns are padded or cut to `length` points when given. */
export function fromSnap(t0: number, step: number, series: unknown, v: unknown): Columns {
  const names = Array.isArray(series) ? series.slice(0, MAX_SERIES).map(labelsOf) : [];
  const rows = Array.isArray(v) ? v : [];
  const length = rows.reduce((n: number, r) => Math.max(n, Array.isArray(r) ? r.length : 0), 0);
  return {
    t0,
    step,
    labels: names,
    v: names.map((_, i) => {
      const r = Array.isArray(rows[i]) ? (rows[i] as unknown[]) : [];
      return Array.from({ length }, (_, j) => num(r[j]));
    }),
  };
}

export type DeltaOutcome = { columns: Columns; missed: boolean };

/**
 * Adds the point at t. `series` is set when the set of series changed and `v` follows the new order. At most
 * `max` points are kept. `missed` says that instants between the last one and t did not arrive; they are null.
 */
export function addDelta(c: Columns, t: number, v: unknown, series: unknown, max: number): DeltaOutcome {
  const row = Array.isArray(v) ? v : [];
  const labels = Array.isArray(series) ? series.slice(0, MAX_SERIES).map(labelsOf) : c.labels;
  const length = points(c);
  if (c.step <= 0) return { columns: c, missed: false };
  const base: Columns = length === 0 ? { ...c, t0: t - c.step } : c;
  const n = length === 0 ? 1 : length;
  const at = Math.round((t - base.t0) / c.step);
  if (at < 0) return { columns: c, missed: false };

  const old = new Map(c.labels.map((l, i) => [keyOf(l), i]));
  const all = [...labels];
  const values: unknown[] = [...row];
  if (labels !== c.labels) {
    const now = new Set(labels.map(keyOf));
    // A series that left stays on the chart as long as its past is inside the window.
    for (const l of c.labels) {
      const past = c.v[old.get(keyOf(l))!]!;
      if (!now.has(keyOf(l)) && all.length < MAX_SERIES && past.slice(-max).some((x) => x !== null)) {
        all.push(l);
        values.push(null);
      }
    }
  }
  const total = Math.max(n, at + 1);
  const drop = Math.max(0, total - max);
  const cols = all.map((l, i) => {
    const j = labels === c.labels ? i : old.get(keyOf(l));
    const past = j === undefined || length === 0 ? [] : c.v[j]!;
    const out: (number | null)[] = new Array(total - drop).fill(null);
    for (let k = drop; k < past.length; k++) out[k - drop] = past[k]!;
    if (at >= drop) out[at - drop] = num(values[i]);
    return out;
  });
  return {
    columns: { t0: base.t0 + drop * c.step, step: c.step, labels: all, v: cols },
    missed: length > 0 && at > length,
  };
}

interface Matrix {
  metric: Labels;
  values: [number, string][];
}

/** The answer of query_range on the grid start, start+step … end (ms). */
export function fromMatrix(result: Matrix[], start: number, end: number, step: number): Columns {
  const length = Math.floor((end - start) / step) + 1;
  const some = result.slice(0, MAX_SERIES);
  return {
    t0: start,
    step,
    labels: some.map((r) => r.metric),
    v: some.map((r) => {
      const out: (number | null)[] = new Array(length).fill(null);
      for (const [t, s] of r.values) {
        const i = Math.round((t * 1000 - start) / step);
        if (i >= 0 && i < length) out[i] = num(Number(s));
      }
      return out;
    }),
  };
}

/** Several results on one time axis: equal grids are kept, others merged by instant. */
export function mergeColumns(parts: Columns[]): { xs: number[]; cols: (number | null)[][] } {
  const full = parts.filter((p) => points(p) > 0);
  if (full.length === 0) return { xs: [], cols: [] };
  const step = full[0]!.step;
  const same = full.every((p) => p.step === step && (p.t0 - full[0]!.t0) % step === 0);
  if (same) {
    const t0 = Math.min(...full.map((p) => p.t0));
    const end = Math.max(...full.map(lastTime));
    const n = Math.round((end - t0) / step) + 1;
    const xs = Array.from({ length: n }, (_, i) => (t0 + i * step) / 1000);
    const cols = full.flatMap((p) => {
      const off = Math.round((p.t0 - t0) / step);
      return p.v.map((c) => {
        if (off === 0 && c.length === n) return c;
        const out: (number | null)[] = new Array(n).fill(null);
        for (let i = 0; i < c.length; i++) out[i + off] = c[i]!;
        return out;
      });
    });
    return { xs, cols };
  }
  const times = [
    ...new Set(full.flatMap((p) => Array.from({ length: points(p) }, (_, i) => p.t0 + i * p.step))),
  ];
  times.sort((a, b) => a - b);
  const index = new Map(times.map((t, i) => [t, i]));
  const cols = full.flatMap((p) =>
    p.v.map((c) => {
      const out: (number | null)[] = new Array(times.length).fill(null);
      for (let i = 0; i < c.length; i++) out[index.get(p.t0 + i * p.step)!] = c[i]!;
      return out;
    }),
  );
  return { xs: times.map((t) => t / 1000), cols };
}
