// How far consumers of the queue are behind, as the page shows it.
import type { Level } from '../live/hosts';
import type { QueueConsumer, QueueLag } from './types';

/** Seconds from which a consumer is behind, and from which it is far behind: those of the shipped alert rules. */
export const BEHIND = 300;
export const FAR_BEHIND = 3600;

export type Standing = 'fine' | 'following' | 'lagging' | 'late' | 'gap';

/** The topic that the consumer is furthest behind in; null when it has read all. */
export function worst(c: QueueConsumer): QueueLag | null {
  let out: QueueLag | null = null;
  for (const l of c.lag ?? []) {
    if (
      l.entries > 0 &&
      (!out || l.seconds > out.seconds || (l.seconds === out.seconds && l.entries > out.entries))
    )
      out = l;
  }
  return out;
}

export function standing(c: QueueConsumer): Standing {
  if (c.gap_entries) return 'gap';
  const l = worst(c);
  if (!l) return 'fine';
  if (l.seconds < BEHIND) return 'following';
  return l.seconds >= FAR_BEHIND ? 'late' : 'lagging';
}

export function standingLevel(c: QueueConsumer): Level {
  const s = standing(c);
  if (s === 'gap') return 'critical';
  return s === 'late' || s === 'lagging' ? 'warning' : 'ok';
}
