// The shapes of users, sessions, tokens and the audit log, and what a record of it says about before and after.

export interface User {
  name: string;
  role: string;
  created?: number;
  disabled?: boolean;
  sessions?: number;
  no_password?: boolean;
  link_expires?: number;
}
export interface OpenSession {
  id: string;
  user: string;
  created: number;
  expires: number;
  address?: string;
  current?: boolean;
}
export interface ApiToken {
  id: string;
  name: string;
  role: string;
  created: number;
  expires?: number;
  by?: string;
  node?: string;
}
export interface JoinToken {
  id: string;
  kind: string;
  uses_left: number;
  name?: string;
  group?: string;
  expires?: number;
  by?: string;
}
export interface RoleTable {
  roles: { role: string; permissions: string[] }[];
  permissions: { permission: string; routes: string[]; sockets: string[] }[];
}
export interface AuditRecord {
  seq: number;
  index: number;
  time: number;
  actor: string;
  address: string;
  action: string;
  target: string;
  detail?: unknown;
  prev: string;
  hash: string;
}
export interface AuditPage {
  records: AuditRecord[];
  next: number;
  head: { first: number; seq: number; bytes: number; hash: string };
}
export interface Verdict {
  ok: boolean;
  head: AuditPage['head'];
  seq?: number;
  fault?: string;
}

/** The roles that a person can have; ingest is for programs only. */
export const PERSON_ROLES = ['viewer', 'operator', 'administrator', 'auditor'];
export const TOKEN_ROLES = [...PERSON_ROLES, 'ingest'];

export type UserState = 'active' | 'disabled' | 'invited' | 'noPassword';
export function userState(u: User): UserState {
  if (u.disabled) return 'disabled';
  if (!u.no_password) return 'active';
  return u.link_expires ? 'invited' : 'noPassword';
}

export interface DiffRow {
  key: string;
  before?: string;
  after?: string;
  kind: 'added' | 'removed' | 'changed' | 'same';
}
export interface Diff {
  /** What differs, or stayed, between before and after. */
  rows: DiffRow[];
  /** What the record says beside that. */
  rest: { key: string; value: string }[];
}

type Fields = Record<string, unknown>;
const isFields = (v: unknown): v is Fields => typeof v === 'object' && v !== null && !Array.isArray(v);

/** Fields of objects within objects become one list, as a.b. */
function flatten(v: Fields, prefix = '', out = new Map<string, string>()): Map<string, string> {
  for (const [k, x] of Object.entries(v)) {
    if (isFields(x) && Object.keys(x).length > 0) flatten(x, `${prefix}${k}.`, out);
    else out.set(prefix + k, typeof x === 'string' ? x : (JSON.stringify(x) ?? ''));
  }
  return out;
}

export function diffOf(detail: unknown): Diff {
  if (detail === undefined || detail === null) return { rows: [], rest: [] };
  if (!isFields(detail)) return { rows: [], rest: [{ key: '', value: JSON.stringify(detail) ?? '' }] };
  const { before, after, ...rest } = detail;
  const was = flatten(isFields(before) ? before : {});
  const is = flatten(isFields(after) ? after : {});
  const rows: DiffRow[] = [];
  for (const key of new Set([...was.keys(), ...is.keys()])) {
    const b = was.get(key);
    const a = is.get(key);
    const kind = b === undefined ? 'added' : a === undefined ? 'removed' : a === b ? 'same' : 'changed';
    rows.push({ key, before: b, after: a, kind });
  }
  rows.sort((x, y) => Number(x.kind === 'same') - Number(y.kind === 'same') || (x.key < y.key ? -1 : 1));
  return { rows, rest: [...flatten(rest)].map(([key, value]) => ({ key, value })) };
}
