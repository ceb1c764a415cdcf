// Alerts as the page has them: types of the API, order, filter and texts.
import type { Level } from '../live/hosts';

export type AlertState = 'pending' | 'firing' | 'acknowledged' | 'silenced' | 'inhibited' | 'resolved';
export interface Alert {
  id: string;
  rule: string;
  name: string;
  severity: string;
  state: AlertState;
  kind?: string;
  expr?: string;
  /** For the lines that the rule looks at, of the alert's labels where that can be. */
  log_query?: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  value: number | null;
  active_at: number;
  fired_at?: number;
  resolved_at?: number;
  escalated_at?: number;
  ack?: { by: string; at: number; comment?: string };
  assigned?: { to: string; by: string; at: number };
  /** Its route has a second step that was not taken yet. */
  escalates?: boolean;
  silenced_by?: string[];
  inhibited_by?: string;
  receivers: string[];
}
export interface AlertSeries {
  start: number;
  step: number;
  values: (number | null)[];
  threshold: number | null;
  query: string;
}
export interface HistoryRecord {
  key: string;
  t: number;
  what: string;
  alert?: string;
  rule?: string;
  labels?: Record<string, string>;
  by?: string;
  to?: string;
  detail?: string;
  receiver?: string;
  dedup_key?: string;
  alerts?: string[];
  count?: number;
}
/** Who did what is in a record, and to whom it went. */
export function whoOf(r: HistoryRecord): string {
  if (r.to) return `${r.by ?? ''} → ${r.to}`;
  return [r.by, r.receiver].filter(Boolean).join(' → ');
}
export interface Matcher {
  name: string;
  value: string;
  isRegex: boolean;
  isEqual: boolean;
}
export interface Silence {
  id: string;
  matchers: Matcher[];
  starts_at: number;
  ends_at: number;
  created_by: string;
  comment: string;
  state: 'pending' | 'active' | 'expired';
  alerts: number;
}
export interface Rule {
  id: string;
  kind: string;
  name: string;
  /** Of expr: promql or logql; absent for other kinds. */
  language?: string;
  expr: string;
  /** For the lines that the rule looks at. */
  log_query?: string;
  for_ms?: number;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  enabled: boolean;
  state: string;
  alerts: number;
  error?: string;
  group: string;
}
export interface RuleFile {
  name: string;
  version: number;
  origin: string;
  enabled: boolean;
  off: string[];
  updated_by: string;
  updated_at: number;
  error?: string;
  warnings: string[];
  rules: Rule[];
}
export interface Problem {
  line?: number;
  message: string;
}

/** The kind of a rule as it is named: recordings of lines and of metrics are told apart. */
export const kindOf = (r: Rule): string =>
  r.kind === 'record' && r.language === 'logql' ? 'record_logql' : r.kind;

/** The level that a rule's label severity stands for. */
export function levelOfSeverity(severity: string): Level | 'info' {
  if (['critical', 'page', 'emergency', 'error', 'fatal'].includes(severity)) return 'critical';
  if (['warning', 'warn', 'major', 'minor'].includes(severity)) return 'warning';
  if (['info', 'notice', 'none'].includes(severity)) return 'info';
  return 'unknown';
}

const RANK: Record<string, number> = { critical: 0, warning: 1, unknown: 2, info: 3 };
const STATE_RANK: Record<AlertState, number> = {
  firing: 0,
  acknowledged: 1,
  pending: 2,
  silenced: 3,
  inhibited: 4,
  resolved: 5,
};
export const since = (a: Alert): number => a.fired_at || a.active_at;

/** What needs somebody first: by state, then the worst, then the newest. */
export function sortAlerts(list: Alert[]): Alert[] {
  return [...list].sort(
    (a, b) =>
      STATE_RANK[a.state] - STATE_RANK[b.state] ||
      RANK[levelOfSeverity(a.severity)]! - RANK[levelOfSeverity(b.severity)]! ||
      since(b) - since(a) ||
      a.id.localeCompare(b.id),
  );
}

export interface Filter {
  text: string;
  pending: boolean;
  muted: boolean;
}
export function filterAlerts(list: Alert[], f: Filter): Alert[] {
  const words = f.text.toLowerCase().split(/\s+/).filter(Boolean);
  return list.filter((a) => {
    if (a.state === 'resolved' || (a.state === 'pending' && !f.pending)) return false;
    if ((a.state === 'silenced' || a.state === 'inhibited') && !f.muted) return false;
    if (words.length === 0) return true;
    const hay = [
      a.name,
      a.annotations.summary ?? '',
      ...Object.entries(a.labels).map(([k, v]) => `${k}=${v}`),
    ]
      .join(' ')
      .toLowerCase();
    return words.every((w) => hay.includes(w));
  });
}

/** Labels that tell an alert apart: without its name and level, which have columns of their own. */
export function shownLabels(labels: Record<string, string>): [string, string][] {
  return Object.entries(labels)
    .filter(([k]) => k !== 'alertname' && k !== 'severity')
    .sort(([a], [b]) => a.localeCompare(b));
}

export function matcherText(m: Matcher): string {
  const op = m.isRegex ? (m.isEqual ? '=~' : '!~') : m.isEqual ? '=' : '!=';
  return `${m.name}${op}${JSON.stringify(m.value)}`;
}

/** The matchers that silence exactly such alerts; labels that change from run to run are left out. */
export function matchersFor(a: Alert): string[] {
  const skip = new Set(['agent', 'instance', 'job', 'severity']);
  return Object.entries(a.labels)
    .filter(([k]) => !skip.has(k) || (k === 'agent' && !a.labels.host))
    .sort(([x], [y]) => (x === 'alertname' ? -1 : y === 'alertname' ? 1 : x.localeCompare(y)))
    .map(([k, v]) => `${k}=${JSON.stringify(v)}`);
}

/** The lines of the field are the matchers. */
export function readMatchers(text: string): string[] {
  return text
    .split('\n')
    .map((s) => s.trim())
    .filter(Boolean);
}
