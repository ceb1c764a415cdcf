// @vitest-environment jsdom
import { describe, expect, it } from 'vitest';
import { type EventRow, groupEvents, lanes, liveQuery, newestFirst, toggled } from './events';

const at = (s: number, o: Partial<EventRow> = {}): EventRow => ({
  id: `${s}.0`,
  t: `${s}000000000`,
  kind: 'unit_failed',
  severity: 'error',
  title: 'x',
  message: 'x',
  host: 'web1',
  source: 'agent',
  key: 'a.service',
  count: 1,
  ...o,
});

describe('events', () => {
  it('are grouped by host, kind and key within a window from one to the next', () => {
    const list = [
      at(1000, { count: 5 }),
      at(990, { host: 'web2' }),
      at(800, { severity: 'critical' }),
      at(400),
      at(100, { key: 'b.service' }),
    ];
    const got = groupEvents(list, 300_000);
    expect(got.map((g) => [g.id, g.count, g.severity])).toEqual([
      ['1000.0', 6, 'critical'],
      ['990.0', 1, 'error'],
      ['400.0', 1, 'error'],
      ['100.0', 1, 'error'],
    ]);
    expect(groupEvents(list, 0)).toHaveLength(5);
  });
  it('come newest first, by place in the log within one time', () => {
    const list = [at(5, { id: '10.2' }), at(6), at(5, { id: '10.10' }), at(5, { id: '9.99' })];
    expect(list.sort(newestFirst).map((e) => e.id)).toEqual(['6.0', '10.10', '10.2', '9.99']);
  });
  it('have lanes: the worst first, the rest together', () => {
    const list = [
      at(5),
      at(4, { kind: 'reboot', severity: 'info' }),
      at(3, { kind: 'oom_kill', severity: 'critical' }),
      at(2, { kind: 'x', severity: 'debug', host: '' }),
    ];
    expect(lanes(groupEvents(list, 0), 'kind', 2).map((l) => [l.name, l.count])).toEqual([
      ['oom_kill', 1],
      ['unit_failed', 1],
      ['', 2],
    ]);
    expect(lanes(groupEvents(list, 0), 'host', 5).map((l) => l.name)).toEqual(['web1', '']);
  });
  it('are followed by the same filter', () => {
    const f = { q: 'a OR b', kinds: ['oom_kill'], hosts: ['w"1'], sources: [], severity: 'warning' };
    expect(liveQuery(f)).toBe(
      '(a OR b) AND (name:"oom_kill") AND (host:"w\\"1" OR (agent_id:"w\\"1" -host:*)) AND severity>=warning',
    );
    expect(liveQuery({ q: '', kinds: [], hosts: [], sources: [], severity: '' })).toBe('');
    expect(toggled(toggled(['a'], 'b'), 'a')).toEqual(['b']);
  });
});
