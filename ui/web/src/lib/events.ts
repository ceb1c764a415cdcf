// Events as the API and the live socket tell them, and how the page groups and places them.
import type { LogSeverity, LogStats } from './types';

export interface EventRow {
  id: string;
  t: string;
  kind: string;
  severity: LogSeverity;
  title: string;
  message: string;
  host: string;
  agent?: string;
  source: string;
  key?: string;
  count: number;
  tags?: Record<string, string> | null;
}
export interface EventPage {
  events: EventRow[] | null;
  next?: string;
  stats?: LogStats;
}

export const SEVERITIES: LogSeverity[] = [
  'critical',
  'error',
  'warning',
  'notice',
  'info',
  'debug',
  'unknown',
];
export const worse = (a: LogSeverity, b: LogSeverity): LogSeverity =>
  SEVERITIES.indexOf(a) <= SEVERITIES.indexOf(b) ? a : b;

export const timeOf = (e: EventRow): number => Number(BigInt(e.t) / 1_000_000n);

/** Newest first; of one time the later in the log first. */
export function newestFirst(a: EventRow, b: EventRow): number {
  const ta = BigInt(a.t);
  const tb = BigInt(b.t);
  if (ta !== tb) return ta < tb ? 1 : -1;
  return comparePosition(b.id, a.id);
}
function comparePosition(a: string, b: string): number {
  const [ai = '0', ao = '0'] = a.split('.');
  const [bi = '0', bo = '0'] = b.split('.');
  if (ai !== bi) return BigInt(ai) < BigInt(bi) ? -1 : 1;
  return Number(ao) - Number(bo);
}

/** Events of one host, kind and key that follow one another within a window: the same thing again. */
export interface EventGroup {
  id: string; // of the newest
  newest: EventRow;
  events: EventRow[]; // newest first
  count: number;
  severity: LogSeverity; // the worst
  from: number; // ms, the oldest
  to: number; // ms, the newest
}

/** Groups events, which are newest first. A window of 0 leaves each by itself. */
export function groupEvents(list: EventRow[], windowMs: number): EventGroup[] {
  const out: EventGroup[] = [];
  const open = new Map<string, EventGroup>();
  for (const e of list) {
    const t = timeOf(e);
    const name = [e.source, e.host, e.kind, e.key ?? ''].join('\u0000');
    const g = open.get(name);
    if (g && windowMs > 0 && g.from - t <= windowMs) {
      g.events.push(e);
      g.count += e.count;
      g.severity = worse(g.severity, e.severity);
      g.from = t;
      continue;
    }
    const fresh = { id: e.id, newest: e, events: [e], count: e.count, severity: e.severity, from: t, to: t };
    open.set(name, fresh);
    out.push(fresh);
  }
  return out;
}

export type LaneBy = 'kind' | 'host';
export interface Lane {
  name: string; // '' for what found no lane of its own
  groups: EventGroup[];
  count: number;
}

/** The busiest lanes, the worst first among equals; the rest share the last. */
export function lanes(groups: EventGroup[], by: LaneBy, most: number): Lane[] {
  const all = new Map<string, Lane>();
  for (const g of groups) {
    const name = by === 'kind' ? g.newest.kind : g.newest.host;
    const lane = all.get(name) ?? { name, groups: [], count: 0 };
    lane.groups.push(g);
    lane.count += g.count;
    all.set(name, lane);
  }
  const worst = (l: Lane) => Math.min(...l.groups.map((g) => SEVERITIES.indexOf(g.severity)));
  const named = [...all.values()].filter((l) => l.name !== '');
  named.sort(
    (a, b) => worst(a) - worst(b) || b.groups.length - a.groups.length || a.name.localeCompare(b.name),
  );
  const shown = named.slice(0, most);
  const rest = [...named.slice(most), ...[...all.values()].filter((l) => l.name === '')];
  if (rest.length > 0)
    shown.push({
      name: '',
      groups: rest.flatMap((l) => l.groups),
      count: rest.reduce((n, l) => n + l.count, 0),
    });
  return shown;
}

export interface EventFilter {
  q: string;
  kinds: string[];
  hosts: string[];
  sources: string[];
  severity: string;
}

const quoted = (v: string) => `"${v.replace(/\\/g, '\\\\').replace(/"/g, '\\"')}"`;

/** The filter in the language of the search box, for the live subscription. */
export function liveQuery(f: EventFilter): string {
  const all: string[] = [];
  if (f.q) all.push(`(${f.q})`);
  for (const [field, values] of [
    ['name', f.kinds],
    ['source', f.sources],
  ] as const)
    if (values.length > 0) all.push(`(${values.map((v) => `${field}:${quoted(v)}`).join(' OR ')})`);
  // A sender without an agent names itself in agent_id.
  if (f.hosts.length > 0)
    all.push(`(${f.hosts.map((h) => `host:${quoted(h)} OR (agent_id:${quoted(h)} -host:*)`).join(' OR ')})`);
  if (f.severity) all.push(`severity>=${f.severity}`);
  return all.join(' AND ');
}

export const listOf = (v: string | null): string[] => (v ? v.split(',').filter(Boolean) : []);
/** The list with the value taken in, or out when it is there. */
export const toggled = (list: string[], v: string): string[] =>
  list.includes(v) ? list.filter((x) => x !== v) : [...list, v];
