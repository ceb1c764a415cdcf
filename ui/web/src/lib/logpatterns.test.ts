import { describe, expect, it } from 'vitest';
import { canNarrow, type LogPattern, narrowed, pieces, worst } from './logpatterns';
import { parts, words } from './logquery';

const one = (pattern: string, more: Partial<LogPattern> = {}): LogPattern => ({
  pattern,
  query: `@pattern:"${pattern}"`,
  lines: 1,
  share: 1,
  first: '1',
  last: '1',
  pos: '1.1',
  severities: {},
  ...more,
});

describe('patterns', () => {
  it('are shown with their slots told apart', () => {
    expect(pieces('took <*> ms⏎')).toEqual([
      { text: 'took ', slot: false },
      { text: '<*>', slot: true },
      { text: ' ms ⏎ ', slot: false },
    ]);
    expect(pieces('')).toEqual([]);
  });
  it('have the worst severity of their lines', () => {
    expect(worst(one('x', { severities: { info: 9, error: 1, warning: 0 } }))).toBe('error');
    expect(worst(one('x'))).toBe('unknown');
  });
  it('narrow a query, and are one part of it', () => {
    const p = one('said "no" to <*> (host)', { logql: '|> `said "no" to <_> (host)`' });
    const q = narrowed('host:a', p);
    expect(q).toBe('host:a @pattern:"said \\"no\\" to <*> (host)"');
    expect(parts(q)).toEqual(['host:a', '@pattern:"said \\"no\\" to <*> (host)"']);
    expect(words(q)).toEqual([]);
    expect(narrowed(q, p, true)).toBe('host:a -@pattern:"said \\"no\\" to <*> (host)"');
    expect(narrowed('a OR b', p)).toBe('(a OR b) @pattern:"said \\"no\\" to <*> (host)"');
  });
  it('narrow a query in LogQL by its own filter', () => {
    const p = one('took <*> ms', { logql: '|> `took <_> ms`' });
    expect(narrowed('{host="a"} ', p)).toBe('{host="a"} |> `took <_> ms`');
    expect(narrowed('{host="a"}', p, true)).toBe('{host="a"} !> `took <_> ms`');
    expect(canNarrow('{host="a"}', one('<*>'))).toBe(false);
    expect(canNarrow('host:a', one('<*>'))).toBe(true);
  });
});
