// What the nodes say of whether their data is whole, as GET /v1/cluster/integrity has it.
import type { Level } from '../live/hosts';

export interface Difference {
  what: string;
  kind?: string;
  day?: number;
  table?: string;
  key?: string;
  nodes: Record<string, string>;
  odd: string[];
}
export interface VerifiedNode {
  node: string;
  answered: boolean;
  error?: string;
  done?: number;
  all?: number;
  doing?: string;
}
export interface Verification {
  name: string;
  by: string;
  began: number;
  ended?: number;
  verdict: string;
  index?: number;
  days: number;
  items: number;
  nodes: VerifiedNode[];
  differences: Difference[];
}
export interface Finding {
  at: number;
  part: string;
  place: string;
}
export interface IntegrityNode {
  node: string;
  error?: string;
  began: number;
  last_pass: number;
  last_took_ms: number;
  last_equal: number;
  left: unknown[];
  failed?: { step: string; error: string }[];
  found: Finding[];
  bytes: number;
}
export interface Integrity {
  last?: Verification;
  nodes: IntegrityNode[];
}

export function verdictLevel(verdict: string): Level {
  return verdict === 'equal' ? 'ok' : verdict === 'differs' ? 'critical' : 'warning';
}

/** A node whose only findings are word indexes has made them again by itself. */
export function nodeLevel(n: IntegrityNode): Level {
  if (n.error) return 'unknown';
  if (n.found.some((f) => f.part !== 'index')) return 'critical';
  if (n.found.length > 0 || n.failed?.length) return 'warning';
  return n.last_pass ? 'ok' : 'unknown';
}

/** How far each node has read, where they read. */
export function progress(v: Verification): string {
  return v.nodes
    .filter((n) => n.all || n.doing)
    .map((n) =>
      n.doing && n.doing !== 'days' ? `${n.node} ${n.doing}` : `${n.node} ${n.done ?? 0}/${n.all}`,
    )
    .join(', ');
}

/** What each node holds of something in which they differ, short. */
export function heldBy(d: Difference): string {
  return Object.keys(d.nodes)
    .sort()
    .map((n) => `${n}: ${d.nodes[n]!.replace(/([0-9a-f]{8})[0-9a-f]{24}/, '$1…')}`)
    .join('; ');
}
