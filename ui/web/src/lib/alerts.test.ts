import { describe, expect, it } from 'vitest';
import {
  type Alert,
  filterAlerts,
  levelOfSeverity,
  matchersFor,
  matcherText,
  readMatchers,
  shownLabels,
  sortAlerts,
} from './alerts';

function alert(over: Partial<Alert>): Alert {
  return {
    id: 'x',
    rule: 'f/g/A',
    name: 'A',
    severity: 'warning',
    state: 'firing',
    labels: { alertname: 'A', severity: 'warning', host: 'web1', agent: 'a-1', instance: 'i', job: 'node' },
    annotations: { summary: 'disk is full' },
    value: 1,
    active_at: 10,
    fired_at: 20,
    receivers: [],
    ...over,
  };
}

describe('alerts', () => {
  it('puts first what needs somebody', () => {
    const list = [
      alert({ id: 'silenced', state: 'silenced', severity: 'critical' }),
      alert({ id: 'old', fired_at: 1 }),
      alert({ id: 'acked', state: 'acknowledged', severity: 'critical' }),
      alert({ id: 'new', fired_at: 30 }),
      alert({ id: 'worst', severity: 'critical', fired_at: 2 }),
      alert({ id: 'pending', state: 'pending', fired_at: 0 }),
    ];
    expect(sortAlerts(list).map((a) => a.id)).toEqual([
      'worst',
      'new',
      'old',
      'acked',
      'pending',
      'silenced',
    ]);
  });
  it('filters by words over name, labels and summary', () => {
    const list = [
      alert({ id: 'a' }),
      alert({ id: 'b', labels: { alertname: 'B', host: 'db1' }, annotations: {} }),
    ];
    const f = { text: '', pending: true, muted: true };
    expect(filterAlerts(list, f)).toHaveLength(2);
    expect(filterAlerts(list, { ...f, text: 'WEB1 full' }).map((a) => a.id)).toEqual(['a']);
    expect(filterAlerts(list, { ...f, text: 'host=db' }).map((a) => a.id)).toEqual(['b']);
    expect(
      filterAlerts([alert({ state: 'pending' }), alert({ state: 'silenced' })], {
        text: '',
        pending: false,
        muted: false,
      }),
    ).toEqual([]);
  });
  it('makes the matchers of a silence', () => {
    expect(matchersFor(alert({}))).toEqual(['alertname="A"', 'host="web1"']);
    expect(matchersFor(alert({ labels: { alertname: 'A', agent: 'a"1' } }))).toEqual([
      'alertname="A"',
      'agent="a\\"1"',
    ]);
    expect(matcherText({ name: 'a', value: 'b', isRegex: true, isEqual: false })).toBe('a!~"b"');
    expect(readMatchers(' a="b"\n\n c=~"d" ')).toEqual(['a="b"', 'c=~"d"']);
  });
  it('knows levels and labels', () => {
    expect(['critical', 'warn', 'info', 'x'].map(levelOfSeverity)).toEqual([
      'critical',
      'warning',
      'info',
      'unknown',
    ]);
    expect(shownLabels({ alertname: 'A', b: '2', a: '1' })).toEqual([
      ['a', '1'],
      ['b', '2'],
    ]);
  });
});
