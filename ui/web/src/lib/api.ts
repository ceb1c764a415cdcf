// The REST client: JSON in and out, problem documents (RFC 9457) as errors, a 401 reported once to the shell.

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly hint?: string,
    /** Byte offset in the query, when the server named one. */
    readonly pos?: number,
  ) {
    super(message);
  }
}

/**
 * How far the log was when the newest answer was given. Reads ask for at least that, so that an answer of another
 * member, after a fail-over or behind one address, never goes back behind what the page has shown or written.
 */
let seen = 0;
export const position = {
  get: (): number => seen,
  atLeast(index: number): void {
    if (Number.isSafeInteger(index) && index > seen) seen = index;
  },
  /** Another login may be to another cluster, whose log is a different one. */
  forget(): void {
    seen = 0;
  },
};
/** Routes that take min_index. The state of the cluster and of the session does not wait: it is asked when nodes lag. */
const FRESH =
  /^\/(api\/v1\/|loki\/api\/v1\/|v1\/(hosts|agents?|logs|events|tokens|users|alerts?|silences|rules|routes|snapshots|sessions|audit|retention)(\/|$))/;

export const onUnauthorized: { handler: (() => void) | null } = { handler: null };

export interface CallOptions {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  body?: unknown;
  form?: Record<string, string>;
  query?: Record<string, string | number | undefined | null>;
  signal?: AbortSignal;
  /** Do not treat 401 as "the session is over". */
  anonymous?: boolean;
  /** Is given the headers of an answer that is a success. */
  head?: (headers: Headers) => void;
}

export async function call<T>(path: string, o: CallOptions = {}): Promise<T> {
  const params = new URLSearchParams();
  for (const [k, v] of Object.entries(o.query ?? {})) if (v != null && v !== '') params.set(k, String(v));
  const headers: Record<string, string> = { Accept: 'application/json' };
  let body: BodyInit | undefined;
  if (o.form) body = new URLSearchParams(o.form);
  else if (o.body !== undefined) {
    headers['Content-Type'] = 'application/json';
    body = JSON.stringify(o.body);
  }
  const method = o.method ?? (body === undefined ? 'GET' : 'POST');
  if (seen > 0 && FRESH.test(path) && (method === 'GET' || path.startsWith('/api/')))
    params.set('min_index', String(seen));
  const qs = params.toString();
  const res = await fetch(qs ? `${path}?${qs}` : path, {
    method,
    headers,
    body,
    credentials: 'same-origin',
    signal: o.signal,
    cache: 'no-store',
  });
  position.atLeast(Number(res.headers.get('X-Triward-Index') ?? 0));
  if (res.ok) o.head?.(res.headers);
  if (res.ok) return (res.status === 204 ? undefined : await res.json()) as T;
  if (res.status === 401 && !o.anonymous) onUnauthorized.handler?.();
  throw await problemOf(res);
}

/** What an answer that is no success says. */
export async function problemOf(res: Response): Promise<ApiError> {
  let p: Record<string, unknown> = {};
  const body = await res.text().catch(() => '');
  try {
    p = (JSON.parse(body) as Record<string, unknown> | null) ?? {};
  } catch {
    // Loki's API says it in plain text. What is neither is some proxy's page: the status line has to do.
    if (res.headers.get('Content-Type')?.startsWith('text/plain')) p.detail = body.trim().slice(0, 2000);
  }
  const text = [p.detail, p.error, p.title].find((s) => typeof s === 'string' && s !== '');
  return new ApiError(
    res.status,
    (text as string | undefined) ?? `${res.status} ${res.statusText}`,
    typeof p.hint === 'string' ? p.hint : undefined,
    typeof p.pos === 'number' ? p.pos : undefined,
  );
}

export function isAbort(e: unknown): boolean {
  return e instanceof DOMException && e.name === 'AbortError';
}
export function messageOf(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}
