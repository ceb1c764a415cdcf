import { describe, expect, it } from 'vitest';
import {
  DAY_MS,
  type DiskNode,
  diskLevel,
  formOf,
  losses,
  type Policy,
  type Preview,
  parts,
  policyOf,
  risky,
  utcDay,
} from './retention';

const policy: Policy = {
  metrics: { age_ms: 90 * DAY_MS, share_pct: 70 },
  logs: { age_ms: 30 * DAY_MS, share_pct: 70 },
  events: { age_ms: 30 * DAY_MS, share_pct: 30 },
  limit_pct: 85,
  warn_pct: 80,
  keep_ms: DAY_MS,
};
const node: DiskNode = {
  node: 'n1',
  state: 'ok',
  total: 100,
  free: 50,
  room: 90,
  used_pct: 40,
  kinds: { metrics: 20, logs: 10, events: 0 },
  queue: 5,
  meta: 1,
  temporary: 0,
  foreign: 14,
  per_day: 1,
};

describe('retention', () => {
  it('turns a policy into days and back', () => {
    expect(policyOf(formOf(policy))).toEqual(policy);
  });
  it('asks before a rule for single streams removes anything', () => {
    const p: Preview = {
      select: '{}',
      everything: false,
      before: 5 * DAY_MS,
      oldest: 0,
      days: 0,
      streams: 0,
      lines: 0,
      total: 9,
      bytes: 0,
    };
    expect(risky(p)).toBe(false);
    expect(risky({ ...p, lines: 1 })).toBe(true);
    expect(risky({ ...p, everything: true })).toBe(true);
    expect(utcDay(p.before)).toBe('1970-01-06');
    expect(utcDay(0)).toBe('-');
  });
  it('names what a change removes', () => {
    expect(losses(policy, policy)).toEqual([]);
    expect(losses(policy, { ...policy, logs: { age_ms: 40 * DAY_MS, share_pct: 80 }, limit_pct: 0 })).toEqual(
      [],
    );
    const to = { ...policy, logs: { age_ms: 7 * DAY_MS, share_pct: 50 }, limit_pct: 60 };
    expect(losses(policy, to)).toEqual([
      { what: 'older', kind: 'logs', n: 7 },
      { what: 'beyond', kind: 'logs', n: 50 },
      { what: 'full', n: 60 },
    ]);
    expect(losses({ ...policy, limit_pct: 0 }, policy)).toEqual([{ what: 'full', n: 85 }]);
  });
  it('draws only what there is', () => {
    expect(parts(node).map((p) => p.part)).toEqual(['metrics', 'logs', 'queue', 'meta', 'foreign']);
  });
  it('is critical only when nothing helps', () => {
    const level = (state: string) => diskLevel({ ...node, state });
    expect(['ok', 'warning', 'cutting', 'stuck', 'unknown'].map(level)).toEqual([
      'ok',
      'warning',
      'warning',
      'critical',
      'unknown',
    ]);
  });
});
