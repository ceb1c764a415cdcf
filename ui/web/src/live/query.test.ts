// @vitest-environment jsdom
import { describe, expect, it } from 'vitest';
import { lineCol, place, withRate } from './query';

describe('place of an error', () => {
  it('is read out of a Prometheus message', () => {
    expect(place('invalid parameter "query": 2:15: parse error: unexpected end')).toEqual({
      line: 2,
      col: 15,
    });
    expect(place('1:1: parse error: no')).toEqual({ line: 1, col: 1 });
    expect(place('query timed out')).toEqual({});
  });
  it('counts characters, not bytes', () => {
    expect(lineCol('错误 (', 7)).toEqual({ line: 1, col: 4 });
    expect(lineCol('a\nbc', 3)).toEqual({ line: 2, col: 2 });
    expect(lineCol('a', 99)).toEqual({ line: 1, col: 2 });
  });
});
describe('rate window', () => {
  it('is four steps, a minute at least', () => {
    expect(withRate('rate(x[$__rate])', 5000)).toBe('rate(x[60s])');
    expect(withRate('rate(x[$__rate])', 60_000)).toBe('rate(x[240s])');
  });
});
