// Pure parts of drawing: hues, stacking, value scale.

const TOKENS = 7;
const STROKES = [
  'stroke-(--s1)',
  'stroke-(--s2)',
  'stroke-(--s3)',
  'stroke-(--s4)',
  'stroke-(--s5)',
  'stroke-(--s6)',
  'stroke-(--s7)',
];
const DASHES: (number[] | undefined)[] = [undefined, [6, 3], [2, 3], [8, 3, 2, 3]];

/** Seven hues, then the same with dashes. */
export function hue(i: number): { token: string; dash: number[] | undefined } {
  return { token: `--s${(i % TOKENS) + 1}`, dash: DASHES[Math.floor(i / TOKENS) % DASHES.length] };
}
export function swatch(i: number): string {
  return STROKES[i % TOKENS]!;
}

/** Cumulative columns; a missing value stays missing and adds nothing to those above. */
export function stacked(cols: (number | null)[][]): (number | null)[][] {
  const sum: number[] = new Array(cols[0]?.length ?? 0).fill(0);
  return cols.map((c) =>
    c.map((v, i) => {
      if (v === null) return null;
      sum[i] = (sum[i] ?? 0) + v;
      return sum[i]!;
    }),
  );
}

/** Scale of the value axis: from zero unless there are negative values, with room above, at least up to max. */
export function valueRange(lo: number | null, hi: number | null, max?: number): [number, number] {
  const top = hi ?? 0;
  const bottom = Math.min(0, lo ?? 0);
  if (max !== undefined) return [bottom, Math.max(max, top)];
  if (top <= 0 && bottom === 0) return [0, 1];
  const room = (top - bottom) * 0.08;
  return [bottom < 0 ? bottom - room : 0, top > 0 ? top + room : 0];
}
