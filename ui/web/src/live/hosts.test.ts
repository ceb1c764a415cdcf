import { describe, expect, it } from 'vitest';
import type { HostRow } from '../lib/types';
import { applyHosts, levelOf, sortHosts } from './hosts';

function host(id: string, more: Partial<HostRow> = {}): HostRow {
  return {
    id,
    host: id,
    state: 'up',
    last_seen: 1,
    cpu: 10,
    mem: 10,
    disk: 10,
    net_rx: 1,
    net_tx: 1,
    load1: 0.1,
    cores: 4,
    log_errors: 0,
    ...more,
  };
}
const spark = () => ({ cpu: [1, 2], mem: [1, 2], net: [1, 2], load: [1, 2] });
const point = (t: number, v: number | null) => ({ t, cpu: v, mem: v, net: v, load: v });

describe('host rows', () => {
  it('refresh the newest point within its step, then move on, with gaps for silence', () => {
    const map = new Map<string, HostRow>();
    applyHosts(map, [host('a', { spark: spark(), spark_end: 15_000, spark_step_ms: 15_000 })]);
    applyHosts(map, [host('a', { point: point(15_000, 7) })]);
    expect(map.get('a')!.spark!.cpu).toEqual([1, 7]);
    applyHosts(map, [host('a', { point: point(30_000, 8) })]);
    expect(map.get('a')!.spark!.cpu).toEqual([1, 7, 8]);
    applyHosts(map, [host('a', { point: point(75_000, null) })]);
    expect(map.get('a')!.spark!.cpu).toEqual([1, 7, 8, null, null, null]);
    applyHosts(map, [host('b')], ['a']);
    expect([...map.keys()]).toEqual(['b']);
  });
  it('never hold more than sixty points', () => {
    const map = new Map<string, HostRow>();
    applyHosts(map, [host('a', { spark: spark(), spark_end: 15_000 })]);
    applyHosts(map, [host('a', { point: point(9e8, 1) })]);
    expect(map.get('a')!.spark!.cpu).toHaveLength(60);
  });
  it('are judged by state and limits; what is missing is unknown, not fine', () => {
    expect(levelOf(host('a', { state: 'down' }))).toBe('critical');
    expect(levelOf(host('a', { state: 'late' }))).toBe('warning');
    expect(levelOf(host('a', { disk: 96 }))).toBe('critical');
    expect(levelOf(host('a', { load1: 8 }))).toBe('warning');
    expect(levelOf(host('a', { cpu: null, mem: null, disk: null, load1: null }))).toBe('unknown');
    expect(levelOf(host('a'))).toBe('ok');
  });
  it('sort worst first and keep missing values last', () => {
    const rows = [
      host('ok'),
      host('down', { state: 'down' }),
      host('hot', { cpu: 96 }),
      host('none', { cpu: null }),
    ];
    expect(sortHosts(rows, 'worst', false).map((h) => h.id)).toEqual(['hot', 'down', 'none', 'ok']);
    expect(sortHosts(rows, 'cpu', false).map((h) => h.id)).toEqual(['hot', 'ok', 'down', 'none']);
    expect(sortHosts(rows, 'cpu', true).map((h) => h.id)).toEqual(['ok', 'hot', 'down', 'none']);
  });
});
