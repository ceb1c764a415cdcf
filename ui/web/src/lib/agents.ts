// What the API tells of agents and of the configuration of their groups, and what the page makes of it.
import type { Level } from '../live/hosts';
import type { HostState } from './types';

export type Drift = 'none' | 'current' | 'own' | 'pending' | 'refused' | 'off' | 'unknown';
export interface AgentConfig {
  drift: Drift;
  wanted_group?: string;
  wanted_version: number;
  group?: string;
  version: number;
  error?: string;
  own?: string[];
}
export interface Agent {
  agent_id: string;
  hostname: string;
  ips?: string[];
  os?: string;
  arch?: string;
  version?: string;
  group?: string;
  created_at: number;
  revoked?: boolean;
  revoked_at?: number;
  revoked_by?: string;
  cert_expires?: number;
  cert_serial?: string;
  heartbeat_at?: number;
  last_sample?: number;
  state: HostState;
  series: number;
  spool_bytes?: number;
  spool_batches?: number;
  spool_limit?: number;
  lag_ms?: number;
  clock_offset_ms?: number;
  lost_items?: number;
  config: AgentConfig;
}

/** The name of the group of agents that have none. */
export const DEFAULT_GROUP = 'default';
export const groupOf = (a: Agent): string => a.group || DEFAULT_GROUP;

export interface ConfigVersion {
  group: string;
  version: number;
  hash: string;
  body?: string;
  author: string;
  at: number;
  note?: string;
  from?: number;
}
export interface Group extends ConfigVersion {
  own: boolean;
  agents: number;
  drift: Partial<Record<Drift, number>>;
}
export interface ConfigProblem {
  line?: number;
  key?: string;
  text: string;
}
export interface DiffLine {
  op: ' ' | '-' | '+' | '@';
  text: string;
}

export const stateLevel: Record<HostState, Level> = {
  up: 'ok',
  late: 'warning',
  down: 'critical',
  new: 'unknown',
};
export const driftLevel: Record<Drift, Level | 'info'> = {
  none: 'unknown',
  current: 'ok',
  own: 'info',
  pending: 'warning',
  refused: 'critical',
  off: 'unknown',
  unknown: 'unknown',
};

/** A clock is told from when it is off by more than this; alerts with `for` and searches by time suffer from it. */
export const SKEW_WARN_MS = 5_000;
const SKEW_CRIT_MS = 60_000;
export function skewLevel(ms: number | undefined): Level {
  if (ms === undefined) return 'unknown';
  const off = Math.abs(ms);
  return off >= SKEW_CRIT_MS ? 'critical' : off >= SKEW_WARN_MS ? 'warning' : 'ok';
}
export function lagLevel(ms: number | undefined): Level {
  if (ms === undefined) return 'unknown';
  return ms >= 600_000 ? 'critical' : ms >= 60_000 ? 'warning' : 'ok';
}
export function spoolLevel(a: Agent): Level {
  if (a.spool_bytes === undefined || !a.spool_limit) return 'unknown';
  const part = a.spool_bytes / a.spool_limit;
  return part >= 0.9 ? 'critical' : part >= 0.5 ? 'warning' : 'ok';
}

const RANK: Record<Level | 'info', number> = { critical: 0, warning: 1, info: 3, unknown: 2, ok: 4 };
/** How bad an agent stands; what is silent is judged by that alone, for the rest is not as of now. */
export function levelOfAgent(a: Agent): Level | 'info' {
  if (a.revoked) return 'unknown';
  const own = stateLevel[a.state];
  if (a.state === 'down' || a.state === 'new') return own;
  const parts = [
    own,
    driftLevel[a.config.drift],
    skewLevel(a.clock_offset_ms),
    lagLevel(a.lag_ms),
    spoolLevel(a),
  ];
  const bad = parts.filter((p) => p === 'critical' || p === 'warning');
  return bad.sort((x, y) => RANK[x] - RANK[y])[0] ?? own;
}

/** The worst first, then by name; revoked ones last. */
export function sortAgents(list: Agent[]): Agent[] {
  const rank = (a: Agent) => (a.revoked ? 9 : RANK[levelOfAgent(a)]);
  return [...list].sort(
    (a, b) =>
      rank(a) - rank(b) || a.hostname.localeCompare(b.hostname) || a.agent_id.localeCompare(b.agent_id),
  );
}

export interface Filter {
  text: string;
  group: string;
  drift: string;
  revoked: boolean;
}
export function filterAgents(list: Agent[], f: Filter): Agent[] {
  const text = f.text.trim().toLowerCase();
  return list.filter(
    (a) =>
      (f.revoked || !a.revoked) &&
      (!f.group || groupOf(a) === f.group) &&
      (!f.drift || a.config.drift === f.drift) &&
      (!text ||
        [a.hostname, a.agent_id, a.version ?? '', a.os ?? '', ...(a.ips ?? [])].some((s) =>
          s.toLowerCase().includes(text),
        )),
  );
}

/** Milliseconds as a short span: 0.3 s, 12 s, 5 min, 3 h. Keeps the sign. */
export function span(ms: number | undefined): string {
  if (ms === undefined) return '-';
  const s = Math.abs(ms) / 1000;
  const sign = ms <= -50 ? '−' : '';
  if (s < 10) return `${sign}${Number(s.toFixed(1))} s`;
  if (s < 120) return `${sign}${Math.round(s)} s`;
  if (s < 7200) return `${sign}${Math.round(s / 60)} min`;
  if (s < 172_800) return `${sign}${Math.round(s / 3600)} h`;
  return `${sign}${Math.round(s / 86_400)} d`;
}

/** The command that enrols a host. The token goes by the environment, so that it is in no list of processes. */
export function enrolCommand(url: string, token: string): string {
  return `sudo TRIWARD_TOKEN=${token} triward-agent enroll --url ${url} && sudo systemctl restart triward-agent`;
}
