// What is missing from what a page shows of lines, put together from the answers that it is made of.
import type { LogStats } from './types';

/** What of the page an answer is. */
export type LackPart = 'lines' | 'counts' | 'values' | 'patterns' | 'numbers' | 'around' | 'first' | 'events';

export interface LackAnswer {
  part: LackPart;
  stats?: LogStats | null;
}

export interface Lacking {
  /** Parts of the page that lack something. */
  parts: LackPart[];
  /** No other node could be asked for at least one of them. */
  unasked: boolean;
  /** What is damaged. */
  damaged: string[];
  /** Nodes that answered in place of the one that was asked. */
  nodes: string[];
}

/** What the answers lack together. */
export function lacking(answers: LackAnswer[]): Lacking {
  const partial = answers.filter((a) => a.stats?.partial);
  const unique = <T>(list: T[]) => [...new Set(list)];
  return {
    parts: unique(partial.map((a) => a.part)),
    unasked: partial.some((a) => a.stats?.unasked),
    damaged: unique(partial.flatMap((a) => a.stats?.damaged ?? [])).slice(0, 10),
    nodes: unique(answers.flatMap((a) => a.stats?.node || [])),
  };
}
