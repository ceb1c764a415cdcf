// What GET /v1/logs/archive tells, and what the page makes of it.
import type { Level } from '../live/hosts';
import type { Where } from './backups';

export interface Total {
  lines: number;
}
export interface Day {
  date: string;
  tag: string;
  through: number;
  totals: { logs: Total; events: Total };
  stored: number;
  agents: number;
  node?: string;
  target?: string;
  at?: number;
  plan?: { through: number };
  attempts?: number;
  error?: string;
  retry?: number;
}
export interface Policy {
  enabled: boolean;
  target: Where;
  node?: string;
  after_h: number;
  hold?: boolean;
  hold_days?: number;
  paused?: string;
}
export interface Room {
  id: string;
  node: string;
  agent: string;
  all: boolean;
  host?: string;
  date: string;
  state: 'importing' | 'ready' | 'failed';
  error?: string;
  by?: string;
  lines: number;
  done: number;
  bytes: number;
  expires: number;
}
export interface Archive {
  policy?: Policy;
  secret_set: boolean;
  running?: { date: string; node: string; done: number; total: number };
  days: Day[];
  waiting: string[];
  lost: { date: string; why: string; at: number }[];
  log_time: number;
  tag: string;
  node: string;
  folder: string;
  rooms: Room[];
}

export type State = 'none' | 'paused' | 'manual' | 'failing' | 'lost' | 'fine';

/** How the archive as a whole stands. */
export function archiveState(a: Archive): State {
  if (!a.policy) return 'none';
  if (a.policy.paused) return 'paused';
  if (a.days.some((d) => d.error)) return 'failing';
  if (a.lost.some((l) => a.log_time - l.at < 7 * 86400e3)) return 'lost';
  return a.policy.enabled ? 'fine' : 'manual';
}

export const stateLevel: Record<State, Level | 'info'> = {
  none: 'unknown',
  paused: 'warning',
  manual: 'info',
  failing: 'critical',
  lost: 'warning',
  fine: 'ok',
};

export type DayState = 'archived' | 'waiting' | 'failed' | 'running' | 'before' | 'late';

/** How a day stands; one that is archived and waits has lines that came late. */
export function dayState(d: Day, a: Archive): DayState {
  if (a.running?.date === d.date) return 'running';
  if (d.error) return 'failed';
  if (d.tag !== a.tag) return 'before';
  if (d.through === 0) return 'waiting';
  return a.waiting.includes(d.date) ? 'late' : 'archived';
}

export const dayLevel: Record<DayState, Level | 'info'> = {
  archived: 'ok',
  waiting: 'info',
  failed: 'critical',
  running: 'info',
  before: 'unknown',
  late: 'info',
};

/** All days that are archived or wait, the newest first. */
export function days(a: Archive): Day[] {
  const known = new Set(a.days.map((d) => d.date));
  const none = { logs: { lines: 0 }, events: { lines: 0 } };
  const waiting = a.waiting
    .filter((date) => !known.has(date))
    .map((date): Day => ({ date, tag: a.tag, through: 0, totals: none, stored: 0, agents: 0 }));
  return [...a.days, ...waiting].sort((x, y) => (x.date < y.date ? 1 : -1));
}

/** Where the lines of a room are searched. */
export function searchURL(r: Room): string {
  const from = Date.parse(`${r.date}T00:00:00Z`);
  return `/logs?archive=${encodeURIComponent(r.id)}&from=${from}&to=${from + 86400e3}`;
}
