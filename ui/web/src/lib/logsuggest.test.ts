import { describe, expect, it } from 'vitest';
import { accept, byteAt, type LogSuggestion, moved, placeOf, typed } from './logsuggest';

const item = (insert: string, from: number, to: number): LogSuggestion => ({
  kind: 'word',
  text: insert,
  insert,
  from,
  to,
  lines: 1,
});

describe('log suggestions', () => {
  it('counts in bytes as the server does', () => {
    const text = '磁盘 é🙂x';
    for (let i = 0; i <= text.length; i++) {
      if (i === 5) continue; // inside of a character of two units
      expect(placeOf(text, byteAt(text, i))).toBe(i);
    }
    expect(byteAt(text, 3)).toBe(7);
    expect(placeOf('ab', 99)).toBe(2);
  });
  it('puts a suggestion into its place', () => {
    expect(accept('磁 con OR x', item('connection', 4, 7))).toEqual({
      text: '磁 connection OR x',
      caret: 12,
    });
    expect(accept('host:', item('web-1', 5, 5))).toEqual({ text: 'host:web-1', caret: 10 });
    expect(accept('ab', item('c', 9, 3)).text).toBe('abc');
  });
  it('asks only where something is typed', () => {
    expect(typed('con', 3)).toBe(true);
    expect(typed('host:', 5)).toBe(true);
    expect(typed('con ', 4)).toBe(false);
    expect(typed('', 0)).toBe(false);
    expect(typed('con*', 4)).toBe(false);
    expect(typed('con(', 2)).toBe(true);
  });
  it('goes round through the suggestions and the text', () => {
    expect(moved(-1, 1, 3)).toBe(0);
    expect(moved(2, 1, 3)).toBe(-1);
    expect(moved(-1, -1, 3)).toBe(2);
    expect(moved(0, -1, 3)).toBe(-1);
    expect(moved(-1, 1, 0)).toBe(-1);
  });
});
