// Counts of lines: the layers of the histogram, and counts of queries whose stages parse or change lines. The routes for
// counts take filters only; those queries are counted as LogQL for numbers, by the labels that the lines end with.

import { call } from './api';
import { askNumbers, type Numbers } from './lognumbers';
import { labelName } from './logql';
import type { Facet, LogHits, LogSeverity } from './types';

export const TOP_LAYERS = 6;
const SEVERITIES: LogSeverity[] = ['critical', 'error', 'warning', 'notice', 'info', 'debug', 'unknown'];
const TOKEN: Record<LogSeverity, string> = {
  critical: '--crit',
  error: '--s2',
  warning: '--warn',
  notice: '--s5',
  info: '--info',
  debug: '--s7',
  unknown: '--unk',
};

export interface Layer {
  name: string;
  /** The colour, a token of the style sheet. */
  token: string;
  counts: number[];
  total: number;
  /** That lines of this layer have in the field; absent when there is no such one value. */
  value?: string;
}
export interface LayerNames {
  severity: Record<LogSeverity, string>;
  rest: string;
  without: string;
}

/** What is drawn, from the bottom up. Severities stand in their order, values by how frequent they are. */
export function layersOf(hits: LogHits | null, names: LayerNames): Layer[] {
  const layer = (name: string, token: string, counts: number[], value?: string): Layer => ({
    name,
    token,
    counts,
    value,
    total: counts.reduce((a, b) => a + b, 0),
  });
  const series = hits?.series ?? [];
  if (!hits?.field) {
    return [...series]
      .sort((a, b) => rank(a.severity) - rank(b.severity))
      .map((s) => {
        const severity = s.severity ?? 'unknown';
        return layer(names.severity[severity] ?? severity, TOKEN[severity] ?? '--unk', s.counts);
      });
  }
  const out = series.map((s, i) =>
    layer(s.value ?? '', `--s${(i % TOP_LAYERS) + 1}`, s.counts, s.value ?? ''),
  );
  for (const [name, token, counts] of [
    [names.rest, '--unk', hits.other],
    [names.without, '--line', hits.without],
  ] as const)
    if (counts?.some((n) => n > 0)) out.push(layer(name, token, counts));
  return out;
}
function rank(s: LogSeverity | undefined): number {
  return SEVERITIES.indexOf(s ?? 'unknown');
}

// Lines that a stage could not work on are shown, so they count too: numbers refuse lines with a mistake.
const countOver = (query: string, by: string[], range: string) =>
  `sum by (${by.join(', ')}) (count_over_time(${query}\n| drop __error__, __error_details__ [${range}]))`;

/** Lines over time by a label that the stages of a query may have made. */
export async function hitsByLabel(
  query: string,
  field: string,
  from: number,
  to: number,
  step: number,
  signal: AbortSignal,
): Promise<LogHits> {
  const name = labelName(field);
  const seconds = Math.max(1, Math.round(step / 1000));
  // A number at t counts the lines of the step before t.
  return hitsOf(
    field,
    name,
    await askNumbers(countOver(query, [name], `${seconds}s`), from + step, to + step, step, signal),
  );
}

export function hitsOf(field: string, name: string, n: Numbers): LogHits {
  const { t0, step, labels, v } = n.columns;
  const all = labels.map((l, i) => {
    const counts = v[i]!.map((x) => x ?? 0);
    return {
      value: field === 'severity' ? severityOf(l[name]) : (l[name] ?? ''),
      counts,
      total: counts.reduce((a, b) => a + b, 0),
    };
  });
  const sum = (list: typeof all) =>
    list.reduce<number[]>((out, s) => s.counts.map((x, i) => x + (out[i] ?? 0)), []);
  const named = all.filter((s) => s.value !== '').sort((a, b) => b.total - a.total);
  return {
    t0: t0 - step,
    step,
    total: all.reduce((a, s) => a + s.total, 0),
    field,
    series: named.slice(0, TOP_LAYERS).map(({ value, counts }) => ({ value, counts })),
    other: sum(named.slice(TOP_LAYERS)),
    without: sum(all.filter((s) => s.value === '')),
    capped: n.total > labels.length,
    stats: n.stats,
  };
}

/** The name of a severity on the page, by its name in LogQL. */
function severityOf(level: string | undefined): LogSeverity {
  return level === 'warn' ? 'warning' : ((level || 'unknown') as LogSeverity);
}

interface Vector {
  data?: {
    result?: { metric: Record<string, string>; value: [number, string] }[];
    stats?: { triward?: { partial?: boolean; damaged?: string[] | null } };
  };
}

/** The most frequent values of labels that the stages of a query may have made; all of them in one walk. */
export async function facetsByLabel(
  query: string,
  fields: string[],
  from: number,
  to: number,
  signal: AbortSignal,
): Promise<Facet[]> {
  const range = `${Math.max(1, Math.ceil((to - from) / 1000))}s`;
  const names = [...new Set(fields.map(labelName))];
  const answer = await call<Vector>('/loki/api/v1/query', {
    query: { query: countOver(query, names, range), time: Math.ceil(to) },
    signal,
  });
  return facetsOf(fields, answer);
}

export function facetsOf(fields: string[], answer: Vector): Facet[] {
  const stats = answer.data?.stats?.triward;
  return fields.map((field) => {
    const name = labelName(field);
    const count = new Map<string, number>();
    for (const { metric, value } of answer.data?.result ?? []) {
      const v = name === 'detected_level' ? severityOf(metric[name]) : (metric[name] ?? '');
      if (v !== '') count.set(v, (count.get(v) ?? 0) + Number(value[1]));
    }
    const values = [...count].map(([value, n]) => ({ value, count: n })).sort((a, b) => b.count - a.count);
    return { field, lines: values.reduce((a, v) => a + v.count, 0), values: values.slice(0, 20), stats };
  });
}
