import { describe, expect, it } from 'vitest';
import { standing, standingLevel, worst } from './queue';
import type { QueueConsumer, QueueLag } from './types';

const of = (lag: Partial<QueueLag>[], gap = 0): QueueConsumer => ({
  name: 'mirror',
  topics: lag.map((l) => l.topic ?? 'logs'),
  position: '1.0',
  lag: lag.map((l) => ({ topic: 'logs', entries: 0, bytes: 0, seconds: 0, ...l })),
  gap_entries: gap,
});

describe('how far a consumer is behind', () => {
  it('is what its worst topic is', () => {
    const c = of([
      { topic: 'metrics', entries: 5, seconds: 3 },
      { topic: 'events', entries: 2, seconds: 400 },
    ]);
    expect(worst(c)?.topic).toBe('events');
    expect(standing(c)).toBe('lagging');
    expect(standingLevel(c)).toBe('warning');
  });
  it('is nothing when all was read', () => {
    const c = of([{ topic: 'metrics' }, { topic: 'events' }]);
    expect(worst(c)).toBeNull();
    expect([standing(c), standingLevel(c)]).toEqual(['fine', 'ok']);
  });
  it('is well while messages are fresh, late after an hour', () => {
    expect(standing(of([{ entries: 9, seconds: 2 }]))).toBe('following');
    expect(standingLevel(of([{ entries: 9, seconds: 2 }]))).toBe('ok');
    expect(standing(of([{ entries: 9, seconds: 3600 }]))).toBe('late');
  });
  it('is critical when retention was faster', () => {
    expect([standing(of([], 3)), standingLevel(of([], 3))]).toEqual(['gap', 'critical']);
  });
});
