import { describe, expect, it } from 'vitest';
import { languageOf } from './loglang';
import {
  addFilter,
  dropStage,
  labelFilter,
  needles,
  queryKind,
  stages,
  withMatcher,
  withStep,
} from './logql';

describe('which language a query is in', () => {
  it('a brace begins a query for lines', () => {
    expect(queryKind('{a="b"}')).toBe('lines');
    expect(queryKind('  \n{')).toBe('lines');
  });
  it('a function and a selector make a query for numbers', () => {
    for (const q of [
      'rate({a="b"}[5m])',
      'sum by (host) (rate({a="b"} |= "x" [5m]))',
      'sum without(host)(rate({a="b"}[5m]))',
      'topk(5, sum(count_over_time({a="b"}[$__auto])))',
      '((sum(rate({a="b"}[1m]))) / 2)',
      'QUANTILE_OVER_TIME(0.99, {a="b"} | json | unwrap ms [5m])',
      'vector(1)',
      'count_over_time ({a="b"}[5m])',
    ])
      expect(queryKind(q), q).toBe('numbers');
  });
  it('words of logs that look like it stay words', () => {
    for (const q of [
      '',
      'rate',
      'sort(list)',
      'max(a OR b)',
      'rate limit {x}',
      'sum "{a}"',
      'sort("{a}")',
      'error',
    ])
      expect(queryKind(q), q).toBe('words');
  });
});

describe('stages', () => {
  it('are cut outside of strings, and make the query again', () => {
    const q =
      '{a="b|c",d!="}"} |= "x | y" or `z` != "no" | json | status >= 500 and x != "a" !~ "q" | line_format "{{.a}} | b" |> "<_>"';
    expect(stages(q)).toEqual([
      '{a="b|c",d!="}"}',
      '|= "x | y" or `z`',
      '!= "no"',
      '| json',
      '| status >= 500 and x != "a"',
      '!~ "q"',
      '| line_format "{{.a}} | b"',
      '|> "<_>"',
    ]);
    expect(stages(q).join(' ')).toBe(q);
    expect(stages('{a="b"}|="x"|json!="y"')).toEqual(['{a="b"}', '|="x"', '|json', '!="y"']);
    expect(stages('{a="b"} | status != 500 != "x"')).toEqual(['{a="b"}', '| status != 500', '!= "x"']);
    expect(stages('{a="b')).toEqual(['{a="b']);
    expect(stages('')).toEqual([]);
  });
  it('go one by one; the selector stays', () => {
    expect(dropStage('{a="b"} |= "x" | json', '|= "x"')).toBe('{a="b"} | json');
    expect(dropStage('{a="b"} | json', '{a="b"}')).toBe('{a="b"} | json');
  });
});

describe('filters', () => {
  it('use the names that labels have in LogQL', () => {
    expect(labelFilter('host', 'web "1"')).toBe('| host="web \\"1\\""');
    expect(labelFilter('http.method', 'GET', true)).toBe('| http_method!="GET"');
    expect(labelFilter('5xx', 'a')).toBe('| _5xx="a"');
    expect(labelFilter('severity', 'warning')).toBe('| detected_level="warn"');
    expect(labelFilter('severity', 'unknown')).toBe('| detected_level=""');
  });
  it('are there once, and without their opposite', () => {
    expect(addFilter('{a="b"} |= "x"', 'host', 'h')).toBe('{a="b"} |= "x" | host="h"');
    expect(addFilter('{a="b"} | host="h" |= "x"', 'host', 'h', true)).toBe('{a="b"} |= "x" | host!="h"');
  });
  it('of a page stand in every selector', () => {
    expect(withMatcher('{a="b"}', 'agent', 'x')).toBe('{agent="x", a="b"}');
    expect(withMatcher('{}', 'agent', 'x')).toBe('{agent="x"}');
    expect(withMatcher('{', 'agent', 'x')).toBe('{agent="x"');
    expect(withMatcher('sum(rate({a="{"}[1m])) / sum(rate({ b="c"}[1m]))', 'agent', 'x')).toBe(
      'sum(rate({agent="x", a="{"}[1m])) / sum(rate({agent="x", b="c"}[1m]))',
    );
    expect(withMatcher('{a="b"} | line_format "{{.x}}"', 'agent', 'x')).toBe(
      '{agent="x", a="b"} | line_format "{{.x}}"',
    );
  });
});

it('marks what lines must contain', () => {
  expect(needles('{a="b"} |= "x \\" y" or `z|` != "no" |~ "re"')).toEqual(['x " y', 'z|']);
});

it('puts the step in the place of $__auto', () => {
  expect(withStep('sum(count_over_time({a="b"}[$__auto]))', 30_000)).toBe(
    'sum(count_over_time({a="b"}[30s]))',
  );
});

it('is edited by the language it is in', () => {
  expect(languageOf('error host:a').add('error', 'host', 'b')).toBe('error host:b');
  expect(languageOf('{a="b"}').add('{a="b"}', 'host', 'b')).toBe('{a="b"} | host="b"');
  expect(languageOf('{a="b"} |= "x" | json').chips('{a="b"} |= "x" | json')).toEqual(['|= "x"', '| json']);
  expect(languageOf('x host:a @2026-11-27').chips('x host:a @2026-11-27')).toEqual(['host:a', '@2026-11-27']);
});
