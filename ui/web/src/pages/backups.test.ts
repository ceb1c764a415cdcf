import { describe, expect, it } from 'vitest';
import {
  type Backups,
  downloadURL,
  lastGood,
  nextAt,
  outcome,
  type Protection,
  protects,
  type Run,
  type Schedule,
  trend,
  verdict,
} from './backups';

const hour = 3600e3;
const now = 1000 * hour;
const run = (id: string, age: number, o: Partial<Run> = {}): Run => ({
  id,
  node: 'n1',
  started: now - age * hour,
  ended: now - age * hour + 1,
  ok: true,
  bytes: 10,
  target: { kind: 'folder' },
  ...o,
});
const schedule = (o: Partial<Schedule> = {}): Schedule => ({
  name: 's',
  enabled: true,
  target: { kind: 'folder' },
  at: '02:00',
  every_h: 24,
  zone: '',
  keep_last: 1,
  keep_days: 0,
  ...o,
});
const site = (runs: Run[], schedules: Schedule[] = []): Backups => ({
  runs,
  schedules,
  log_time: now,
  node: 'n1',
  folder: '/x',
  recovery: '',
});

describe('backups', () => {
  it('says how the cluster stands', () => {
    expect(verdict(site([]))).toBe('none');
    expect(verdict(site([run('a', 1, { ok: false })]))).toBe('none');
    expect(verdict(site([run('a', 1, { removed: true })]))).toBe('none');
    const good = run('g', 30);
    expect(verdict(site([good], [schedule({ last: good, last_good: good })]))).toBe('fine');
    const bad = run('b', 1, { ok: false });
    expect(verdict(site([bad, good], [schedule({ last: bad, last_good: good })]))).toBe('lastFailed');
    const old = run('o', 49);
    expect(verdict(site([old], [schedule({ last: old, last_good: old })]))).toBe('old');
    expect(verdict(site([old], [schedule({ last: old, last_good: old, weekdays: ['sun'] })]))).toBe('fine');
    expect(verdict(site([old], [schedule({ last: old, last_good: old, enabled: false })]))).toBe('fine');
    expect(verdict(site([old], [schedule({ last: old, last_good: old, paused: 'x' })]))).toBe('fine');
  });
  it('tells what became of a run', () => {
    const open = run('a', 1, { ok: false, ended: 0 });
    expect(outcome(open)).toBe('interrupted');
    expect(outcome(open, { ...open, phase: 'writing', done: 1, total: 2 })).toBe('underWay');
    expect(outcome(run('a', 1, { ok: false }))).toBe('failed');
    expect(outcome(run('a', 1, { removed: true }))).toBe('removed');
  });
  it('finds the newest good one, the next time and the trend', () => {
    const b = site(
      [run('x', 1, { ok: false }), run('y', 2), run('z', 3, { bytes: 5 })],
      [schedule({ next: now + 2 }), schedule({ next: now + 1 }), schedule({ next: 0 })],
    );
    expect(lastGood(b)?.id).toBe('y');
    expect(nextAt(b)).toBe(now + 1);
    expect(nextAt(site([]))).toBe(0);
    expect(trend(b).map((r) => r.bytes)).toEqual([5, 10]);
  });
  it('names what to download', () => {
    const url = (o: Partial<Protection>) => downloadURL({ plain: false, recovery: false, keys: '', ...o });
    expect(url({ plain: true, recovery: true, keys: 'age1x' })).toBe('/v1/snapshot');
    expect(url({ recovery: true })).toBe('/v1/snapshot?recovery=true');
    expect(url({ keys: '# mine\n age1a \n\nage1b' })).toBe('/v1/snapshot?recipients=age1a%2Cage1b');
    expect(protects({ plain: false, recovery: false, keys: '#\n' })).toBe(false);
    expect(protects({ plain: true, recovery: false, keys: '' })).toBe(true);
  });
});
