// A LogQL query for numbers, asked over a range through the API of Loki.
import { type Columns, fromMatrix, type Labels } from '../live/columns';
import { failure, lineCol, type QueryFailure } from '../live/query';
import { ApiError, call } from './api';
import type { LogStats } from './types';

export interface Numbers {
  columns: Columns;
  /** How many series there are, also those that columns do not hold. */
  total: number;
  stats: LogStats;
  warnings: string[];
}

interface Answer {
  data?: {
    result?: { metric: Labels; values: [number, string][] }[];
    stats?: {
      summary?: { totalLinesProcessed?: number; totalBytesProcessed?: number; execTime?: number };
      triward?: {
        blocksConsidered?: number;
        blocksSkipped?: number;
        blocksOpened?: number;
        partial?: boolean;
        damaged?: string[] | null;
      };
    };
  };
  warnings?: string[] | null;
}

/** Header that names the node which answered in place of the one that was asked. */
const NODE = 'X-Triward-Node';

/** Asks for from…to (ms) on a grid that is aligned to the step. */
export async function askNumbers(
  query: string,
  from: number,
  to: number,
  stepMs: number,
  signal: AbortSignal,
): Promise<Numbers> {
  const start = Math.ceil(from / stepMs) * stepMs;
  const end = Math.max(start, Math.floor(to / stepMs) * stepMs);
  let node: string | undefined;
  const answer = await call<Answer>('/loki/api/v1/query_range', {
    query: { query, start, end, step: stepMs / 1000 },
    signal,
    head: (h) => (node = h.get(NODE) ?? undefined),
  });
  const numbers = numbersOf(answer, start, end, stepMs);
  return { ...numbers, stats: { ...numbers.stats, node } };
}

export function numbersOf(answer: Answer, start: number, end: number, stepMs: number): Numbers {
  const result = answer.data?.result ?? [];
  const { summary, triward } = answer.data?.stats ?? {};
  return {
    columns: fromMatrix(result, start, end, stepMs),
    total: result.length,
    stats: {
      considered: triward?.blocksConsidered,
      skipped: triward?.blocksSkipped,
      blocks: triward?.blocksOpened,
      scanned_lines: summary?.totalLinesProcessed,
      bytes: summary?.totalBytesProcessed,
      ms: summary?.execTime === undefined ? undefined : summary.execTime * 1000,
      partial: triward?.partial,
      damaged: triward?.damaged,
    },
    warnings: answer.warnings ?? [],
  };
}

/** What is wrong with a query, and where: Loki's API tells the place in its text, its column in bytes. */
export function numbersFailure(query: string, e: unknown): QueryFailure {
  const m = e instanceof ApiError ? /^parse error at line (\d+), col (\d+): /.exec(e.message) : null;
  if (!m) return failure(e);
  const line = Number(m[1]);
  const text = query.split('\n')[line - 1] ?? '';
  return {
    message: (e as ApiError).message.slice(m[0].length),
    line,
    col: lineCol(text, Number(m[2]) - 1).col,
  };
}
