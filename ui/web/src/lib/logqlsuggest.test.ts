import { describe, expect, it } from 'vitest';
import { calls, matching, spotOf, suggestion } from './logqlsuggest';
import { accept } from './logsuggest';

/** The caret stands at the bar of the text: ¦ */
const at = (marked: string) => {
  const caret = marked.indexOf('¦');
  return { text: marked.replace('¦', ''), caret };
};
const spot = (marked: string) => {
  const { text, caret } = at(marked);
  return spotOf(text, caret);
};

describe('the place in a LogQL query', () => {
  it('is a label in a selector or a grouping', () => {
    expect(spot('{¦')).toEqual({ kind: 'name', prefix: '', from: 1, bare: false });
    expect(spot('{a="b", ho¦')).toEqual({ kind: 'name', prefix: 'ho', from: 8, bare: false });
    expect(spot('sum by (a, ho¦) (rate({a="b"}[5m]))')).toEqual({
      kind: 'name',
      prefix: 'ho',
      from: 11,
      bare: true,
    });
    expect(spot('{a¦b="c"}')).toMatchObject({ kind: 'name', prefix: 'a' });
  });
  it('is a value, a stage, a text, or nothing', () => {
    expect(spot('rate({host=~"we¦')).toEqual({ kind: 'value', name: 'host', prefix: 'we', from: 13 });
    expect(spot('{a="b"} | js¦')).toEqual({ kind: 'stage', prefix: 'js', from: 10 });
    expect(spot('{a="b"} |= "err¦')).toEqual({ kind: 'text' });
    expect(spot('{a="b"} | host="err¦')).toBeNull();
    expect(spot('{a="b"¦')).toBeNull();
    expect(spot('{a="b"} |= ¦')).toBeNull();
    expect(spot('{a="{"} ¦')).toBeNull();
    expect(spot('{a="\\"¦')).toMatchObject({ kind: 'value', name: 'a' });
  });
  it('is asked about by itself when something is typed', () => {
    expect(calls(spot('{¦'))).toBe(true);
    expect(calls(spot('{a="¦'))).toBe(true);
    expect(calls(spot('{a="b"} |¦'))).toBe(false);
    expect(calls(spot('{a="b"} ¦'))).toBe(false);
  });
});

describe('a suggestion', () => {
  const taken = (marked: string, choice: string) => {
    const { text, caret } = at(marked);
    const s = spotOf(text, caret)!;
    if (s.kind === 'text') throw new Error('a text');
    const r = accept(text, suggestion(s, text, caret, choice));
    return `${r.text.slice(0, r.caret)}¦${r.text.slice(r.caret)}`;
  };
  it('brings what must follow, and replaces what is typed', () => {
    expect(taken('{ho¦', 'host')).toBe('{host="¦');
    expect(taken('{ho¦="x"}', 'host')).toBe('{host¦="x"}');
    expect(taken('{错="错", ho¦st', 'unit')).toBe('{错="错", unit="¦');
    expect(taken('{host="we¦"}', 'web "1"')).toBe('{host="web \\"1\\""¦}');
    expect(taken('{host="we¦', 'web-1')).toBe('{host="web-1"¦');
    expect(taken('{a="b"} | pa¦', 'pattern')).toBe('{a="b"} | pattern "¦');
    expect(taken('sum by (ho¦) (x)', 'host')).toBe('sum by (host¦) (x)');
  });
  it('begins with what is typed, or else contains it', () => {
    expect(matching(['source', 'host', 'vhost', 'HOSTNAME'], 'host', 10)).toEqual(['HOSTNAME', 'vhost']);
    expect(matching(['a', 'b', 'c'], '', 2)).toEqual(['a', 'b']);
  });
});
