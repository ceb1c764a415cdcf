import { describe, expect, it } from 'vitest';
import { type Archive, archiveState, type Day, dayState, days, searchURL } from './archive';

const day = (date: string, more: Partial<Day> = {}): Day => ({
  date,
  tag: 't',
  through: 5,
  totals: { logs: { lines: 1 }, events: { lines: 0 } },
  stored: 1,
  agents: 1,
  ...more,
});
const archive = (more: Partial<Archive> = {}): Archive => ({
  policy: { enabled: true, target: { kind: 'folder' }, after_h: 24 },
  secret_set: false,
  days: [day('2026-01-02')],
  waiting: [],
  lost: [],
  log_time: 30 * 86400e3,
  tag: 't',
  node: 'n1',
  folder: '/x',
  rooms: [],
  ...more,
});

describe('archive of logs', () => {
  it('says how it stands, the worst first', () => {
    expect(archiveState(archive())).toBe('fine');
    expect(archiveState(archive({ policy: undefined }))).toBe('none');
    expect(archiveState(archive({ days: [day('2026-01-02', { error: 'x' })] }))).toBe('failing');
    const lost = { date: '2026-01-01', why: 'size' };
    expect(archiveState(archive({ lost: [{ ...lost, at: 29 * 86400e3 }] }))).toBe('lost');
    expect(archiveState(archive({ lost: [{ ...lost, at: 86400e3 }] }))).toBe('fine');
    const policy = { enabled: false, target: { kind: 'folder' as const }, after_h: 24 };
    expect(archiveState(archive({ policy }))).toBe('manual');
    expect(archiveState(archive({ policy: { ...policy, paused: 'restored' } }))).toBe('paused');
  });
  it('tells days that wait, failed or got late lines', () => {
    const a = archive({ waiting: ['2026-01-02', '2026-01-05'], running: undefined });
    expect(days(a).map((d) => [d.date, dayState(d, a)])).toEqual([
      ['2026-01-05', 'waiting'],
      ['2026-01-02', 'late'],
    ]);
    expect(dayState(day('2026-01-01', { tag: 'other' }), a)).toBe('before');
    expect(dayState(day('2026-01-01', { error: 'x' }), a)).toBe('failed');
    const running = { date: '2026-01-01', node: 'n1', done: 1, total: 2 };
    expect(dayState(day('2026-01-01', { error: 'x' }), archive({ running }))).toBe('running');
  });
  it('searches the whole day of a room', () => {
    const url = searchURL({ id: '2026-01-02-ab/c', date: '2026-01-02' } as never);
    expect(url).toBe('/logs?archive=2026-01-02-ab%2Fc&from=1767312000000&to=1767398400000');
  });
});
