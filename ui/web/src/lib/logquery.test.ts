import { describe, expect, it } from 'vitest';
import { addTerm, dropTerm, fieldName, mark, parts, quote, term, words } from './logquery';

describe('log query', () => {
  it('quotes what the language would read otherwise', () => {
    expect(quote('web-01')).toBe('web-01');
    expect(quote('sshd.service')).toBe('sshd.service');
    expect(quote('/var/log/app.log')).toBe('"/var/log/app.log"');
    expect(quote('a "b" \\c')).toBe('"a \\"b\\" \\\\c"');
    expect(quote('错误')).toBe('错误');
    expect(quote('a*')).toBe('"a*"');
    expect(quote('')).toBe('""');
  });
  it('names fields so that they are meant', () => {
    expect(term(fieldName('req.path'), '/api')).toBe('req.path:"/api"');
    expect(term(fieldName('level'), '30')).toBe('"level":30');
    expect(term(fieldName('状态'), '异常', true)).toBe('-"状态":异常');
    expect(fieldName('a "b"')).toBe('"a \\"b\\""');
    expect(fieldName('9x')).toBe('"9x"');
    expect(parts('a "状态":/x y/ b')).toEqual(['a', '"状态":/x y/', 'b']);
    expect(words('a "b c" "状态":异常')).toEqual(['b c']);
  });
  it('splits at spaces outside quotes, parentheses and expressions', () => {
    expect(parts('a "b c" -host:"x y" (d OR e) f')).toEqual(['a', '"b c"', '-host:"x y"', '(d OR e)', 'f']);
    expect(parts('/a b/ host:/c (d/ file:/var/log x')).toEqual([
      '/a b/',
      'host:/c (d/',
      'file:/var/log',
      'x',
    ]);
    expect(parts('"a \\" b" c')).toEqual(['"a \\" b"', 'c']);
  });
  it('adds a filter once, replaces its opposite and binds alternatives', () => {
    expect(addTerm('', 'host', 'a')).toBe('host:a');
    expect(addTerm('x host:a', 'host', 'a')).toBe('x host:a');
    expect(addTerm('x host:a', 'host', 'a', true)).toBe('x -host:a');
    expect(addTerm('x OR y', 'host', 'a')).toBe('(x OR y) host:a');
    expect(dropTerm('x host:a y', 'host:a')).toBe('x y');
  });
  it('marks words, not filters', () => {
    const w = words('error "disk full" time* -debug host:a severity>=warning AND (oom OR kill) /re/');
    expect(w).toEqual(['error', 'disk full', 'time', 'oom', 'kill']);
    expect(words('conn*refused conection~ @2026-11-27T10:00..11:00 @2026-11-27 "a*b" x')).toEqual([
      'conn',
      'refused',
      'a*b',
    ]);
    expect(mark('An ERROR: x', ['error'])).toEqual([
      { s: 'An ', hit: false },
      { s: 'ERROR', hit: true },
      { s: ': x', hit: false },
    ]);
  });
});
