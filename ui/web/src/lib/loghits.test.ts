import { afterEach, describe, expect, it, vi } from 'vitest';
import { facetsByLabel, facetsOf, hitsByLabel, hitsOf, layersOf } from './loghits';
import type { LogSeverity } from './types';

const names = {
  severity: Object.fromEntries(
    ['critical', 'error', 'warning', 'notice', 'info', 'debug', 'unknown'].map((s) => [s, s]),
  ) as Record<LogSeverity, string>,
  rest: 'rest',
  without: 'without',
};

describe('layers of the histogram', () => {
  it('of severities stand in their order', () => {
    const layers = layersOf(
      {
        t0: 0,
        step: 1,
        total: 6,
        series: [
          { severity: 'info', counts: [1, 2] },
          { severity: 'error', counts: [3, 0] },
        ],
      },
      names,
    );
    expect(layers.map((l) => [l.name, l.token, l.total, l.value])).toEqual([
      ['error', '--s2', 3, undefined],
      ['info', '--info', 3, undefined],
    ]);
  });
  it('of a field are its values, then the others and the lines without it', () => {
    const layers = layersOf(
      {
        t0: 0,
        step: 1,
        total: 9,
        field: 'host',
        series: [
          { value: 'a', counts: [4] },
          { value: 'b', counts: [2] },
        ],
        other: [0],
        without: [3],
      },
      names,
    );
    expect(layers.map((l) => [l.name, l.total, l.value])).toEqual([
      ['a', 4, 'a'],
      ['b', 2, 'b'],
      ['without', 3, undefined],
    ]);
    expect(new Set(layers.map((l) => l.token)).size).toBe(3);
    expect(layersOf(null, names)).toEqual([]);
  });
});

describe('counts of queries that parse or change lines', () => {
  const labels = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'].map((x) => ({ status: x }));
  it('are bars by the label: the most frequent ones, the others, and those without', () => {
    const h = hitsOf('status', 'status', {
      columns: {
        t0: 2000,
        step: 1000,
        labels: [...labels, {}],
        v: [...labels.map((_, i) => [i + 1, null]), [5, 1]],
      },
      total: 9,
      stats: { partial: true },
      warnings: [],
    });
    expect(h.t0).toBe(1000);
    expect(h.series!.map((s) => [s.value, s.counts])).toEqual([
      ['h', [8, 0]],
      ['g', [7, 0]],
      ['f', [6, 0]],
      ['e', [5, 0]],
      ['d', [4, 0]],
      ['c', [3, 0]],
    ]);
    expect(h.other).toEqual([3, 0]);
    expect(h.without).toEqual([5, 1]);
    expect(h.total).toBe(42);
    expect(h).toMatchObject({ capped: false, stats: { partial: true } });
  });
  it('are top values of several fields out of one answer', () => {
    const one = (host: string, level: string, n: string) => ({
      metric: { host, detected_level: level },
      value: [0, n] as [number, string],
    });
    const f = facetsOf(['severity', 'host', 'user.name'], {
      data: { result: [one('a', 'warn', '2'), one('b', 'warn', '3'), one('b', '', '4')] },
    });
    expect(f[0]!.values).toEqual([
      { value: 'warning', count: 5 },
      { value: 'unknown', count: 4 },
    ]);
    expect(f[1]!.values).toEqual([
      { value: 'b', count: 7 },
      { value: 'a', count: 2 },
    ]);
    expect(f[2]).toEqual({ field: 'user.name', lines: 0, values: [] });
  });
});

describe('what is asked to count such a query', () => {
  afterEach(() => vi.unstubAllGlobals());
  const asked = async (what: (signal: AbortSignal) => Promise<unknown>) => {
    let url = '';
    vi.stubGlobal('fetch', async (u: string) => {
      url = u;
      return new Response('{}');
    });
    await what(new AbortController().signal);
    const u = new URL(url, 'https://n');
    return { path: u.pathname, ...Object.fromEntries(u.searchParams) };
  };
  it('counts each line once, also those with a mistake, also behind a comment', async () => {
    const q = '{a="b"} | json # all';
    expect(await asked((s) => hitsByLabel(q, 'severity', 60_000, 180_000, 30_000, s))).toEqual({
      path: '/loki/api/v1/query_range',
      query: `sum by (detected_level) (count_over_time(${q}\n| drop __error__, __error_details__ [30s]))`,
      start: '90000',
      end: '210000',
      step: '30',
    });
    expect(
      await asked((s) => facetsByLabel(q, ['host', 'user.name', 'level', 'severity'], 60_000, 180_500, s)),
    ).toEqual({
      path: '/loki/api/v1/query',
      query: `sum by (host, user_name, detected_level) (count_over_time(${q}\n| drop __error__, __error_details__ [121s]))`,
      time: '180500',
    });
  });
});
