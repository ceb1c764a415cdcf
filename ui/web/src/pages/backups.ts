// What GET /v1/snapshots tells, and what the page makes of it.
import type { Level } from '../live/hosts';

export interface Where {
  kind: 'folder' | 's3';
  url?: string;
  endpoint?: string;
  region?: string;
  access_key?: string;
  secret_key?: string;
  ca_pem?: string;
}
export interface Run {
  id: string;
  schedule?: string;
  by?: string;
  node: string;
  started: number;
  ended?: number;
  ok: boolean;
  error?: string;
  target: Where;
  name?: string;
  index?: number;
  bytes?: number;
  image_bytes?: number;
  digest?: string;
  encryption?: string;
  keys?: string;
  read_back?: boolean;
  removed?: boolean;
  /** Folder of the repository in the target; absent for a backup that is a file. */
  repository?: string;
  stored?: number;
  kind?: 'drill';
  drill?: {
    of: string;
    digest: string;
    want: string;
    days: number;
    partial?: number;
    counts?: Record<string, number>;
  };
}
export interface Claim extends Run {
  phase: string;
  done: number;
  total: number;
  cancel?: boolean;
}
export interface Schedule {
  name: string;
  enabled: boolean;
  target: Where;
  recipients?: string[];
  recovery?: boolean;
  plain?: boolean;
  node?: string;
  at: string;
  every_h: number;
  weekdays?: string[];
  zone: string;
  keep_last: number;
  keep_days: number;
  paused?: string;
  secret_set?: boolean;
  next?: number;
  retry?: number;
  last?: Run;
  last_good?: Run;
  form?: 'file' | 'repository';
  archive_s?: number;
  drill_days?: number;
  archive?: Archive;
  last_drill?: Run;
}
/** How far the log is archived behind the newest backup. */
export interface Archive {
  node?: string;
  index: number;
  log_time: number;
  error?: string;
  gap?: { from: number; to: number };
  behind_ms: number;
}
export interface Backups {
  schedules: Schedule[];
  running?: Claim;
  runs: Run[];
  log_time: number;
  node: string;
  folder: string;
  recovery: string;
}

/** How an archive stands: late when it is behind by ten of its periods, or a minute. */
export function archiveLevel(s: Schedule): Level {
  const a = s.archive;
  if (!a) return 'unknown';
  if (a.gap) return 'critical';
  if (a.error) return 'warning';
  return a.behind_ms > Math.max(60e3, 10e3 * (s.archive_s ?? 0)) ? 'warning' : 'ok';
}

/** What a run put into its place. */
export function stored(r: Run): number | undefined {
  return r.repository ? r.stored : r.bytes;
}

export type Outcome = 'good' | 'failed' | 'interrupted' | 'removed' | 'underWay';
export function outcome(r: Run, running?: Claim): Outcome {
  if (r.ok) return r.removed ? 'removed' : 'good';
  if (r.ended) return 'failed';
  return running?.id === r.id ? 'underWay' : 'interrupted';
}
export const outcomeLevel: Record<Outcome, Level | 'info'> = {
  good: 'ok',
  failed: 'critical',
  interrupted: 'critical',
  removed: 'unknown',
  underWay: 'info',
};

/** The newest good backup that is still there. */
export function lastGood(b: Backups): Run | undefined {
  return b.runs.find((r) => r.ok && !r.removed && !r.kind);
}

export type Verdict = 'fine' | 'none' | 'old' | 'lastFailed' | 'drillFailed';
/** How the cluster stands: a schedule whose newest good backup lies two of its periods back is late. */
export function verdict(b: Backups): Verdict {
  if (!lastGood(b)) return 'none';
  for (const s of b.schedules) {
    if (!s.enabled || s.paused) continue;
    const period = s.weekdays?.length ? 7 * 24 : s.every_h;
    const good = s.last_good?.started ?? 0;
    if (good > 0 && b.log_time - good > 2 * period * 3600e3) return 'old';
    if (s.last && !s.last.ok && s.last.ended) return 'lastFailed';
    if (s.last_drill && !s.last_drill.ok && s.last_drill.ended) return 'drillFailed';
  }
  return 'fine';
}
export const verdictLevel: Record<Verdict, Level> = {
  fine: 'ok',
  none: 'warning',
  old: 'critical',
  lastFailed: 'warning',
  drillFailed: 'critical',
};

/** The first time at which a schedule makes a backup; 0 for none. */
export function nextAt(b: Backups): number {
  const all = b.schedules.map((s) => s.next ?? 0).filter((t) => t > 0);
  return all.length ? Math.min(...all) : 0;
}

/** Good backups, oldest first, for the picture of their sizes. */
export function trend(b: Backups, most = 40): Run[] {
  return b.runs
    .filter((r) => r.ok && !r.kind && (r.bytes ?? 0) > 0)
    .slice(0, most)
    .reverse();
}

/** For whom a backup is encrypted, as the fields of the page hold it. */
export interface Protection {
  plain: boolean;
  recovery: boolean;
  /** Public keys, one a line. */
  keys: string;
}
export function protects(p: Protection): boolean {
  return p.plain || p.recovery || keyList(p.keys).length > 0;
}
/** The address of a download, encrypted as chosen. */
export function downloadURL(p: Protection): string {
  const query = new URLSearchParams();
  if (!p.plain && p.recovery) query.set('recovery', 'true');
  const keys = p.plain ? [] : keyList(p.keys);
  if (keys.length > 0) query.set('recipients', keys.join(','));
  const qs = query.toString();
  return qs ? `/v1/snapshot?${qs}` : '/v1/snapshot';
}
export function keyList(text: string): string[] {
  return text
    .split('\n')
    .map((l) => l.trim())
    .filter((l) => l !== '' && !l.startsWith('#'));
}

export const WEEKDAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
export const EVERY = [24, 12, 8, 6, 4, 3, 2, 1];

export function emptySchedule(recovery: boolean): Schedule {
  return {
    name: '',
    enabled: true,
    target: { kind: 'folder' },
    recovery,
    plain: false,
    at: '02:00',
    every_h: 24,
    zone: Intl.DateTimeFormat().resolvedOptions().timeZone ?? '',
    keep_last: 14,
    keep_days: 0,
    form: 'repository',
    archive_s: 60,
    drill_days: 0,
  };
}
