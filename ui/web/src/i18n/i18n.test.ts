import { describe, expect, it } from 'vitest';
import { en } from './en';
import { zh } from './zh';

function leaves(o: unknown, path = ''): [string, unknown][] {
  if (typeof o !== 'object' || o === null) return [[path, o]];
  return Object.entries(o).flatMap(([k, v]) => leaves(v, `${path}.${k}`));
}
// The same in both languages on purpose.
const SAME = /^\.(app\.title|app\.missing|overview\.col\.cpu|top\.presets.*)$/;

describe('dictionaries', () => {
  const english = leaves(en);
  const chinese = new Map(leaves(zh));
  it('have the same keys and kinds', () => {
    expect([...chinese.keys()].sort()).toEqual(english.map(([k]) => k).sort());
    for (const [k, v] of english) expect(typeof chinese.get(k), k).toBe(typeof v);
  });
  it('are translated: no English text is left in the Chinese one', () => {
    for (const [k, v] of english) {
      if (typeof v !== 'string' || SAME.test(k)) continue;
      expect(chinese.get(k), k).not.toBe(v);
      expect(chinese.get(k), k).toMatch(/[\u4e00-\u9fff]/);
    }
  });
});
