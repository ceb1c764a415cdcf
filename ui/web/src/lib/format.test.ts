import { describe, expect, it } from 'vitest';
import { parseDuration, stepFor, writeDuration } from './duration';
import {
  bytes,
  dateTime,
  fmt,
  nsToMs,
  parseDateTime,
  seconds,
  seriesName,
  shortNames,
  tight,
} from './format';

describe('numbers', () => {
  it('are "-" when missing, never zero', () => {
    for (const v of [null, undefined, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(fmt(v, 'pct')).toBe('-');
      expect(bytes(v)).toBe('-');
      expect(tight(v)).toBe('-');
    }
    expect(fmt(0, 'pct')).toBe('0 %');
  });
  it('carry their unit', () => {
    expect(fmt(42.345, 'pct')).toBe('42.3 %');
    expect(bytes(1536)).toBe('1.50 KiB');
    expect(fmt(1048576, 'Bps')).toBe('1 MiB/s');
    expect(tight(4_900_000)).toBe('4.67M');
    expect(seconds(0.0123)).toBe('12.3 ms');
    expect(seconds(90_000)).toBe('25 h');
  });
});
describe('times', () => {
  it('are read as they are written', () => {
    const at = parseDateTime('2026-01-31 18:00:05')!;
    expect(dateTime(at)).toBe('2026-01-31 18:00:05');
    expect(parseDateTime('2026-01-31')).not.toBeNull();
    for (const bad of ['', 'soon', '2026-02-31 10:00', '2026-01-31 25:00'])
      expect(parseDateTime(bad)).toBeNull();
  });
  it('keep milliseconds of nanoseconds', () => {
    expect(Math.floor(nsToMs('1700000000123456789'))).toBe(1700000000123);
  });
  it('durations', () => {
    expect(parseDuration('15m')).toBe(900_000);
    expect(parseDuration('0m')).toBeNull();
    expect(parseDuration('9999d')).toBeNull();
    expect(writeDuration(7_200_000)).toBe('2h');
    expect(stepFor(3600_000)).toBe(10_000);
    expect(stepFor(60_000)).toBe(1000);
  });
});
describe('series names', () => {
  it('leave out what is the same everywhere', () => {
    expect(seriesName({ __name__: 'up', job: 'node' })).toBe('up{job="node"}');
    const all = [
      { __name__: 'up', job: 'node', host: 'a' },
      { __name__: 'up', job: 'node', host: 'b' },
    ];
    expect(shortNames(all)).toEqual(['a', 'b']);
    expect(
      shortNames([
        { a: '1', b: '1' },
        { a: '2', b: '2' },
      ]),
    ).toEqual(['{a="1", b="1"}', '{a="2", b="2"}']);
  });
});
