import { describe, expect, it } from 'vitest';
import type { LogRow } from '../lib/types';
import { TAIL_MAX, TailBuffer } from './tail';

const row = (n: number): LogRow => ({
  t: String(n),
  pos: `${n}.0`,
  severity: 'info',
  text: `line ${n}`,
  labels: {},
});
const rows = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => row(from + i));

describe('TailBuffer', () => {
  it('shows what comes and doubles nothing after a resume', () => {
    const b = new TailBuffer();
    b.reset(rows(0, 3));
    b.add(rows(2, 5));
    expect(b.shown.map((i) => i.key)).toEqual(['0.0', '1.0', '2.0', '3.0', '4.0']);
  });
  it('holds new lines back while frozen and counts them', () => {
    const b = new TailBuffer();
    b.reset(rows(0, 2));
    b.frozen = true;
    b.add(rows(2, 5));
    b.gap(7);
    expect(b.shown).toHaveLength(2);
    expect(b.fresh).toBe(3);
    b.thaw();
    expect(b.shown.at(-1)).toMatchObject({ gap: 7 });
    expect(b.shown).toHaveLength(6);
    expect(b.fresh).toBe(0);
  });
  it('stays bounded, shown and held back', () => {
    const b = new TailBuffer();
    b.reset(rows(0, TAIL_MAX + 10));
    expect(b.shown).toHaveLength(TAIL_MAX);
    expect(b.shown[0]!.key).toBe('10.0');
    b.frozen = true;
    b.add(rows(TAIL_MAX + 10, 2 * TAIL_MAX + 50));
    expect(b.pending).toHaveLength(TAIL_MAX);
  });
  it('tells a gap of unknown size apart', () => {
    const b = new TailBuffer();
    b.gap(-1);
    b.gap(0);
    expect(b.shown.map((i) => i.gap)).toEqual([null, 0]);
  });
});
