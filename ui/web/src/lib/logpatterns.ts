// Patterns of lines: what the page asks and what a click makes of the query.
import { addTerm } from './logquery';
import type { LogSeverity, LogStats } from './types';

export interface LogPattern {
  pattern: string;
  query: string;
  logql?: string;
  lines: number;
  share: number;
  first: string;
  last: string;
  pos: string;
  severities: Partial<Record<LogSeverity, number>>;
  counts?: number[];
  new?: boolean;
}

export interface LogPatterns {
  lines: number;
  patterns: LogPattern[];
  other: number;
  distinct?: number;
  new: number;
  since?: number;
  kept_from?: number;
  capped?: boolean;
  stats: LogStats;
}

const WORST: LogSeverity[] = ['critical', 'error', 'warning', 'notice', 'info', 'debug', 'unknown'];

/** The most severe of the severities that lines of the pattern have. */
export function worst(p: LogPattern): LogSeverity {
  return WORST.find((s) => (p.severities[s] ?? 0) > 0) ?? 'unknown';
}

/** Pieces of a pattern; a slot stands for what differs from line to line. */
export function pieces(pattern: string): { text: string; slot: boolean }[] {
  return pattern
    .split(/(<\*>)/)
    .filter((s) => s !== '')
    .map((text) => ({ text: text.replaceAll('⏎', ' ⏎ '), slot: text === '<*>' }));
}

/** Whether a query is one in LogQL. */
const isLogQL = (q: string) => q.trimStart().startsWith('{');

/** Whether the query can be narrowed to the pattern, or to all but it. */
export function canNarrow(q: string, p: LogPattern): boolean {
  return !isLogQL(q) || !!p.logql;
}

/** The query narrowed to the lines of a pattern, or to the others. In LogQL the filter may take in other lines too. */
export function narrowed(q: string, p: LogPattern, negate = false): string {
  if (isLogQL(q)) return `${q.trimEnd()} ${negate ? p.logql?.replace('|>', '!>') : p.logql}`;
  return addTerm(q, '@pattern', p.pattern, negate);
}
