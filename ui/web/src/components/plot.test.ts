import { describe, expect, it } from 'vitest';
import { hue, stacked, valueRange } from './plot';

describe('drawing', () => {
  it('uses seven hues, then dashes', () => {
    expect(hue(0)).toEqual({ token: '--s1', dash: undefined });
    expect(hue(7).token).toBe('--s1');
    expect(hue(7).dash).toBeDefined();
  });
  it('stacks; a missing value stays missing', () => {
    expect(
      stacked([
        [1, 2, null],
        [1, null, 3],
      ]),
    ).toEqual([
      [1, 2, null],
      [2, null, 3],
    ]);
  });
  it('starts the scale at zero and leaves room above', () => {
    expect(valueRange(5, 10)).toEqual([0, 10.8]);
    expect(valueRange(0, 0)).toEqual([0, 1]);
    expect(valueRange(2, 50, 100)).toEqual([0, 100]);
    expect(valueRange(-10, 10)[0]).toBeLessThan(-10);
  });
});
