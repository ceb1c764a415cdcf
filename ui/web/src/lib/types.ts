// The shapes of the HTTP API and the live socket as the page uses them.

export type HostState = 'up' | 'late' | 'down' | 'new';
export interface Spark {
  cpu: (number | null)[];
  mem: (number | null)[];
  net: (number | null)[];
  load: (number | null)[];
}
export interface HostRow {
  id: string;
  host: string;
  state: HostState;
  last_seen: number | null;
  os?: string;
  version?: string;
  tags?: Record<string, string> | null;
  cpu: number | null;
  mem: number | null;
  disk: number | null;
  disk_mount?: string | null;
  net_rx: number | null;
  net_tx: number | null;
  load1: number | null;
  cores: number | null;
  log_errors: number | null;
  spark?: Spark;
  spark_step_ms?: number;
  /** Instant of the newest point of the sparklines, ms. */
  spark_end?: number;
  point?: { t?: number; cpu: number | null; mem: number | null; net: number | null; load: number | null };
}

export interface Member {
  id: string;
  url: string;
}
export interface Session {
  user: string;
  role: string;
  node: string;
  cluster: string;
  version: string;
  members: Member[];
}

export type LogSeverity = 'critical' | 'error' | 'warning' | 'notice' | 'info' | 'debug' | 'unknown';
export interface LogRow {
  t: string;
  pos: string;
  severity: LogSeverity;
  text: string;
  labels: Record<string, string>;
  fields?: Record<string, string> | null;
  /** Absent of a line of a log. */
  kind?: 'event';
}
/** What an answer cost; each of the blocks considered was skipped, counted or opened. */
export interface LogStats {
  considered?: number;
  skipped?: number;
  skipped_header?: number;
  skipped_index?: number;
  skipped_filter?: number;
  /** Passed over by what their lines have in common. */
  skipped_templates?: number;
  /** The node that answered, where lines are damaged on the one that was asked. */
  node?: string;
  /** Answered by their header alone. */
  counted?: number;
  /** Opened. */
  blocks?: number;
  pending_index?: number;
  scanned_lines?: number;
  bytes?: number;
  ms?: number;
  /** Something damaged was left out, and no other node had it all. */
  partial?: boolean;
  /** Partial, and no other node could be asked. */
  unasked?: boolean;
  damaged?: string[] | null;
  expired?: boolean;
}
export interface LogPage {
  rows: LogRow[] | null;
  next?: string;
  stats?: LogStats;
}
export interface LogHits {
  t0: number;
  step: number;
  total: number;
  /** That was counted by; severities when absent. */
  field?: string;
  series: { severity?: LogSeverity; value?: string; counts: number[] }[] | null;
  /** Lines with other values than those of series, and without the field. */
  other?: number[] | null;
  without?: number[] | null;
  capped?: boolean;
  stats?: LogStats;
}
export interface Facet {
  field: string;
  /** That have the field. */
  lines?: number;
  values: { value: string; count: number }[] | null;
  capped?: boolean;
  stats?: LogStats;
}

export interface ClusterNode {
  agent_url?: string;
  id: string;
  url: string;
  peer: string;
  role: 'leader' | 'follower' | 'candidate' | 'unreachable';
  voter: boolean;
  read_only?: boolean;
  leaving?: boolean;
  format?: number;
  term?: number;
  last_index?: number;
  commit_index?: number;
  applied_index?: number;
  mark_index?: number;
  lag?: number | null;
  version?: string;
  disk?: { total?: number; free?: number; used_by?: Record<string, number> } | null;
  cert_expires?: string | number | null;
  digest?: string | null;
  /** Index at which the digest was taken. */
  digest_index?: number;
  started_at?: string | number | null;
  uptime_s?: number | null;
}
export interface ClusterState {
  id: string;
  leader: string;
  term: number;
  tolerates: number;
  /** Why no leader can be elected by itself, and what to do. */
  no_majority?: string;
  /** Of the cluster's state; what older programs than this do not read. */
  format?: number;
  nodes: ClusterNode[] | null;
  /** Nodes that were taken out. */
  removed?: { id: string; at: number; by: string }[] | null;
}
/** How the cluster is after a change of its members. */
export interface MemberChange {
  node: string;
  leader: string;
  voters: number;
  tolerates: number;
  note?: string;
  pending?: string;
}
export interface UpgradeState {
  format: number;
  target: number;
  blocked?: string;
  nodes: { id: string; version: string; format: number }[] | null;
}
export interface QueueLag {
  topic: string;
  entries: number;
  bytes: number;
  seconds: number;
}
export interface QueueConsumer {
  name: string;
  topics: string[];
  agent?: string;
  position: string;
  owner?: string;
  elsewhere?: boolean;
  lag: QueueLag[] | null;
  gap_entries?: number;
}
export interface QueueState {
  first_index: number;
  last_index: number;
  commit_index: number;
  applied_index: number;
  bytes: number;
  topics:
    | { name: string; entries: number; per_second?: number; last_time_ms?: number; aliases?: string[] }[]
    | null;
  consumers: QueueConsumer[] | null;
  in_flight_bytes?: number;
  retention?: { bytes: number; age_s: number; held_bytes: number; since_ms?: number };
}
export type AgentRecord = Record<string, unknown>;
export interface Sample {
  name: string;
  labels: Record<string, string>;
  t: number;
  v: number | null;
}
