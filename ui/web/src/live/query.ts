// A PromQL query as columns: followed over the live socket, or asked once for a fixed range.
import { ApiError, call, isAbort, messageOf } from '../lib/api';
import type { LiveClient, Subscription } from './client';
import { addDelta, type Columns, EMPTY, fromMatrix, fromSnap, lastTime, points } from './columns';

export interface QueryFailure {
  message: string;
  /** Offset in the query, in bytes; line and column when the server gave these. */
  pos?: number;
  line?: number;
  col?: number;
  /** What to do about it. */
  hint?: string;
}
export interface Sink {
  data(c: Columns): void;
  fail(f: QueryFailure): void;
}

const RESTART_EVERY = 5000;
// The live socket takes steps of an hour at most.
const MAX_LIVE_STEP = 3600_000;

/** `$__rate` in a query stands for a rate window that suits the step: four steps, one minute at least. */
export function withRate(query: string, stepMs: number): string {
  return query.replaceAll('$__rate', `${Math.max(60, Math.ceil((4 * stepMs) / 1000))}s`);
}

/** Follows the query; returns the undo. Missed instants are asked for again, at most every five seconds. */
export function follow(
  client: LiveClient,
  query: string,
  wantedStep: number,
  windowMs: number,
  sink: Sink,
): () => void {
  const stepMs = Math.min(wantedStep, MAX_LIVE_STEP);
  const max = Math.floor(windowMs / stepMs) + 1;
  let columns: Columns = EMPTY;
  let restarted = 0;
  let sub: Subscription | null = null;
  const again = () => {
    if (Date.now() - restarted < RESTART_EVERY) return;
    restarted = Date.now();
    sub?.restart();
  };
  sub = client.sub(
    'promql',
    { query: withRate(query, stepMs), step: stepMs, window: windowMs },
    {
      snap: (m) => {
        columns = fromSnap(m.t0 ?? 0, m.step ?? stepMs, m.series, m.v);
        sink.data(columns);
      },
      delta: (m) => {
        if (m.t === undefined) return;
        if (columns.step <= 0) columns = { ...EMPTY, step: stepMs };
        const r = addDelta(columns, m.t, m.v, m.series, max);
        columns = r.columns;
        sink.data(columns);
        if (r.missed) again();
      },
      gap: again,
      err: (m) => sink.fail({ message: m.message ?? m.code, ...place(m.message ?? ''), pos: m.pos }),
    },
  );
  return () => sub?.close();
}

interface RangeAnswer {
  data?: { result?: { metric: Record<string, string>; values: [number, string][] }[] };
}

/** Asks for from…to (ms) once; the grid is aligned to the step as the live one is. */
export async function ask(
  query: string,
  from: number,
  to: number,
  stepMs: number,
  sink: Sink,
  signal: AbortSignal,
): Promise<void> {
  const start = Math.ceil(from / stepMs) * stepMs;
  const end = Math.max(start, Math.floor(to / stepMs) * stepMs);
  try {
    const r = await call<RangeAnswer>('/api/v1/query_range', {
      form: {
        query: withRate(query, stepMs),
        start: String(start / 1000),
        end: String(end / 1000),
        step: String(stepMs / 1000),
      },
      signal,
    });
    sink.data(fromMatrix(r.data?.result ?? [], start, end, stepMs));
  } catch (e) {
    if (!isAbort(e)) sink.fail(failure(e));
  }
}

export function failure(e: unknown): QueryFailure {
  const message = messageOf(e);
  return {
    message,
    ...place(message),
    ...(e instanceof ApiError ? { pos: e.pos, hint: e.hint } : { pos: undefined }),
  };
}

/** Line and column out of "invalid parameter "query": 1:5: parse error: …". */
export function place(message: string): { line?: number; col?: number } {
  const m = /(?:^|\s)(\d+):(\d+): parse error/.exec(message);
  return m ? { line: Number(m[1]), col: Number(m[2]) } : {};
}

/** Line and column (from 1) of a byte offset. */
export function lineCol(query: string, byteOffset: number): { line: number; col: number } {
  const before = new TextDecoder().decode(new TextEncoder().encode(query).slice(0, Math.max(0, byteOffset)));
  const lines = before.split('\n');
  return { line: lines.length, col: lines.at(-1)!.length + 1 };
}

export { lastTime, points };
