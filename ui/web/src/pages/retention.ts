// What GET /v1/retention tells, and what the page makes of it.
import type { Level } from '../live/hosts';

export const KINDS = ['metrics', 'logs', 'events'] as const;
export type Kind = (typeof KINDS)[number];
export const DAY_MS = 86_400_000;

export interface Rule {
  age_ms: number;
  share_pct: number;
}
export interface Policy extends Record<Kind, Rule> {
  limit_pct: number;
  warn_pct: number;
  keep_ms: number;
}
export interface DiskNode {
  node: string;
  state: string;
  why?: string;
  total: number;
  free: number;
  room: number;
  used_pct: number;
  kinds: Record<string, number>;
  queue: number;
  meta: number;
  temporary: number;
  foreign: number;
  pending?: boolean;
  per_day: number;
  days_left?: number;
}
export interface Cut {
  kind: string;
  from: number;
  to: number;
  reason: string;
  at: number;
  index: number;
}
export interface Retention {
  policy: Policy;
  version: number;
  by?: string;
  at?: number;
  defaults: Policy;
  kinds: { kind: Kind; items: number; oldest: number; floor: number }[];
  nodes: DiskNode[];
  history: Cut[];
  selectors: Selector[];
}
/** A rule for single streams and what it has removed; age_ms is 0 when there is no such rule any more. */
export interface Selector {
  kind: string;
  select: string;
  age_ms: number;
  by?: string;
  at?: number;
  before: number;
  lines: number;
  days: number;
  cut_at: number;
}
/** What a rule would remove now. */
export interface Preview {
  select: string;
  everything: boolean;
  before: number;
  oldest: number;
  days: number;
  streams: number;
  lines: number;
  total: number;
  bytes: number;
}
/** Retention cuts between days in UTC, so its days are shown in UTC. */
export const utcDay = (ms: number): string => (ms ? new Date(ms).toISOString().slice(0, 10) : '-');
/** Whether a rule is saved only after somebody said to have understood what it removes. */
export const risky = (p: Preview): boolean => p.lines > 0 || p.everything;

export function diskLevel(n: DiskNode): Level {
  switch (n.state) {
    case 'ok':
      return 'ok';
    case 'warning':
    case 'cutting':
      return 'warning';
    case 'stuck':
      return 'critical';
    default:
      return 'unknown';
  }
}

/** What takes of a disk, in the order of the bar. */
export function parts(n: DiskNode): { part: string; bytes: number }[] {
  return [
    ...KINDS.map((k) => ({ part: k as string, bytes: n.kinds[k] ?? 0 })),
    { part: 'queue', bytes: n.queue },
    { part: 'meta', bytes: n.meta },
    { part: 'temporary', bytes: n.temporary < 1 << 20 ? 0 : n.temporary },
    { part: 'foreign', bytes: n.foreign },
  ].filter((p) => p.bytes > 0);
}

/** The form of the dialog: days instead of milliseconds. */
export interface Form {
  rules: { kind: Kind; days: number; share: number }[];
  limit: number;
  warn: number;
  keep: number;
}
export function formOf(p: Policy): Form {
  return {
    rules: KINDS.map((kind) => ({
      kind,
      days: Math.round(p[kind].age_ms / DAY_MS),
      share: p[kind].share_pct,
    })),
    limit: p.limit_pct,
    warn: p.warn_pct,
    keep: Math.round(p.keep_ms / DAY_MS),
  };
}
export function policyOf(f: Form): Policy {
  const rule = (kind: Kind): Rule => {
    const r = f.rules.find((x) => x.kind === kind)!;
    return { age_ms: r.days * DAY_MS, share_pct: r.share };
  };
  return {
    metrics: rule('metrics'),
    logs: rule('logs'),
    events: rule('events'),
    limit_pct: f.limit,
    warn_pct: f.warn,
    keep_ms: f.keep * DAY_MS,
  };
}

export interface Loss {
  what: 'older' | 'beyond' | 'full';
  kind?: Kind;
  n: number;
}
/** What the change from one policy to another removes for good. */
export function losses(from: Policy, to: Policy): Loss[] {
  const out: Loss[] = [];
  for (const kind of KINDS) {
    if (to[kind].age_ms < from[kind].age_ms)
      out.push({ what: 'older', kind, n: Math.round(to[kind].age_ms / DAY_MS) });
    if (to[kind].share_pct < from[kind].share_pct) out.push({ what: 'beyond', kind, n: to[kind].share_pct });
  }
  if (to.limit_pct > 0 && (from.limit_pct === 0 || to.limit_pct < from.limit_pct))
    out.push({ what: 'full', n: to.limit_pct });
  return out;
}
