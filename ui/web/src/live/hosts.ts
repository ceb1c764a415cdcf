// Rows of the live host table: merging of deltas, the judgement "how bad is it", and the order worst first.
import type { HostRow } from '../lib/types';

const SPARK_POINTS = 60;
const SPARK_STEP = 15_000;
export type Level = 'critical' | 'warning' | 'ok' | 'unknown';
export const LEVELS: Level[] = ['critical', 'warning', 'unknown', 'ok'];

/** Applies a delta: changed rows replace theirs and push one point, `gone` rows leave. The map is changed. */
export function applyHosts(map: Map<string, HostRow>, rows: HostRow[], gone: string[] = []): void {
  for (const id of gone) map.delete(id);
  for (const row of rows) {
    const old = map.get(row.id);
    if (row.spark || !old?.spark) {
      map.set(row.id, row);
      continue;
    }
    const p = row.point;
    if (!p) {
      map.set(row.id, { ...old, ...row, spark: old.spark });
      continue;
    }
    const step = old.spark_step_ms ?? SPARK_STEP;
    const end = old.spark_end ?? 0;
    const at = p.t ?? end + step;
    // The newest point is refreshed until its step is over; steps that passed in silence are gaps.
    const ahead = end > 0 ? Math.round((at - end) / step) : 1;
    const move = (a: (number | null)[], v: number | null | undefined) => put(a, ahead, v ?? null);
    map.set(row.id, {
      ...old,
      ...row,
      spark_step_ms: step,
      spark_end: ahead > 0 ? at : end,
      spark: {
        cpu: move(old.spark.cpu, p.cpu),
        mem: move(old.spark.mem, p.mem),
        net: move(old.spark.net, p.net),
        load: move(old.spark.load, p.load),
      },
    });
  }
}
function put(a: (number | null)[], ahead: number, v: number | null): (number | null)[] {
  if (ahead < 0) return a;
  if (ahead === 0) return [...a.slice(0, -1), v];
  const gap = new Array<null>(Math.min(ahead - 1, SPARK_POINTS)).fill(null);
  return [...a, ...gap, v].slice(-SPARK_POINTS);
}

export function levelOfPct(v: number | null, warn: number, crit: number): Level {
  if (v === null || v === undefined) return 'unknown';
  return v >= crit ? 'critical' : v >= warn ? 'warning' : 'ok';
}
export const limits = { cpu: [85, 95], mem: [88, 95], disk: [85, 95], load: [1.5, 3] } as const;

export function loadPerCore(h: HostRow): number | null {
  return h.load1 === null || !h.cores ? null : h.load1 / h.cores;
}
/** A host that is down has no current values, whatever was last heard of it. */
export function current(h: HostRow): boolean {
  return h.state === 'up' || h.state === 'late';
}

export function levelOf(h: HostRow): Level {
  if (h.state === 'down') return 'critical';
  if (h.state === 'new') return 'unknown';
  const parts: Level[] = [
    levelOfPct(h.cpu, ...limits.cpu),
    levelOfPct(h.mem, ...limits.mem),
    levelOfPct(h.disk, ...limits.disk),
    levelOfPct(loadPerCore(h), ...limits.load),
  ];
  if (parts.includes('critical')) return 'critical';
  if (h.state === 'late' || parts.includes('warning')) return 'warning';
  return parts.every((p) => p === 'unknown') ? 'unknown' : 'ok';
}

const RANK: Record<Level, number> = { critical: 0, warning: 1, unknown: 2, ok: 3 };

/** How full the worst resource is, in steps of ten, so that rows do not jump at every tick. */
function pressure(h: HostRow): number {
  if (!current(h)) return 0;
  const load = loadPerCore(h);
  const worst = Math.max(h.cpu ?? 0, h.mem ?? 0, h.disk ?? 0, load === null ? 0 : Math.min(100, load * 50));
  return Math.floor(worst / 10);
}

export type SortKey = 'worst' | 'host' | 'cpu' | 'mem' | 'disk' | 'net' | 'load' | 'errors' | 'seen';

export function sortHosts(rows: HostRow[], key: SortKey, ascending: boolean): HostRow[] {
  const value = (h: HostRow): number | null => {
    switch (key) {
      case 'cpu':
        return current(h) ? h.cpu : null;
      case 'mem':
        return current(h) ? h.mem : null;
      case 'disk':
        return current(h) ? h.disk : null;
      case 'net':
        return current(h) && (h.net_rx !== null || h.net_tx !== null)
          ? (h.net_rx ?? 0) + (h.net_tx ?? 0)
          : null;
      case 'load':
        return current(h) ? h.load1 : null;
      case 'errors':
        return h.log_errors;
      case 'seen':
        return h.last_seen;
      default:
        return null;
    }
  };
  const byName = (a: HostRow, b: HostRow) => a.host.localeCompare(b.host, undefined, { numeric: true });
  const sorted = [...rows];
  if (key === 'host') return sorted.sort((a, b) => (ascending ? byName(a, b) : byName(b, a)));
  if (key === 'worst')
    return sorted.sort(
      (a, b) => RANK[levelOf(a)] - RANK[levelOf(b)] || pressure(b) - pressure(a) || byName(a, b),
    );
  return sorted.sort((a, b) => {
    const x = value(a);
    const y = value(b);
    if (x === null || y === null) return x === y ? byName(a, b) : x === null ? 1 : -1;
    return (ascending ? x - y : y - x) || byName(a, b);
  });
}
