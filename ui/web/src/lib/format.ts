// Numbers and times as the product writes them. Missing is never zero: null and NaN give "-".

export type Unit = 'pct' | 'bytes' | 'Bps' | 'num' | 'ops' | 's' | 'load';
export const MISSING = '-';

const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

function digits(v: number): string {
  const a = Math.abs(v);
  return a >= 100 || Number.isInteger(v) ? v.toFixed(0) : a >= 10 ? v.toFixed(1) : v.toFixed(2);
}

export function bytes(v: number | null | undefined): string {
  if (v == null || !Number.isFinite(v)) return MISSING;
  let n = v;
  let i = 0;
  while (Math.abs(n) >= 1000 && i < BINARY.length - 1) {
    n /= 1024;
    i++;
  }
  return `${i === 0 ? n.toFixed(0) : digits(n)} ${BINARY[i]}`;
}

export function short(v: number | null | undefined): string {
  if (v == null || !Number.isFinite(v)) return MISSING;
  const a = Math.abs(v);
  if (a >= 1e12) return `${digits(v / 1e12)} T`;
  if (a >= 1e9) return `${digits(v / 1e9)} G`;
  if (a >= 1e6) return `${digits(v / 1e6)} M`;
  if (a >= 1e4) return `${digits(v / 1e3)} k`;
  if (a !== 0 && a < 0.01) return v.toExponential(1);
  return digits(v);
}

export function fmt(v: number | null | undefined, unit: Unit): string {
  if (v == null || !Number.isFinite(v)) return MISSING;
  switch (unit) {
    case 'pct':
      return `${v >= 99.95 || v === 0 ? v.toFixed(0) : v.toFixed(1)} %`;
    case 'bytes':
      return bytes(v);
    case 'Bps':
      return `${bytes(v)}/s`;
    case 'ops':
      return `${short(v)}/s`;
    case 's':
      return seconds(v);
    case 'load':
      return v.toFixed(2);
    default:
      return short(v);
  }
}

export function seconds(v: number): string {
  const a = Math.abs(v);
  if (a === 0) return '0 s';
  if (a < 1e-3) return `${digits(v * 1e6)} µs`;
  if (a < 1) return `${digits(v * 1e3)} ms`;
  if (a < 120) return `${digits(v)} s`;
  if (a < 7200) return `${digits(v / 60)} min`;
  if (a < 172800) return `${digits(v / 3600)} h`;
  return `${digits(v / 86400)} d`;
}

const pad = (n: number, w = 2) => String(n).padStart(w, '0');

/** 14:03:09, always 24 hours. */
export function clock(ms: number, withMs = false): string {
  const d = new Date(ms);
  const s = `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
  return withMs ? `${s}.${pad(d.getMilliseconds(), 3)}` : s;
}
/** 2026-03-09 */
export function day(ms: number): string {
  const d = new Date(ms);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;
}
export function dateTime(ms: number): string {
  return `${day(ms)} ${clock(ms)}`;
}
/** Reads what dateTime writes, with or without seconds or the time; null when it is no such instant. */
export function parseDateTime(s: string): number | null {
  const m = /^(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T](\d{1,2}):(\d{2})(?::(\d{2}))?)?$/.exec(s.trim());
  if (!m) return null;
  const [y, mo, d, h = 0, mi = 0, sec = 0] = m.slice(1).map((x) => (x === undefined ? undefined : Number(x)));
  const at = new Date(y!, mo! - 1, d!, h, mi, sec);
  const same = at.getMonth() === mo! - 1 && at.getDate() === d && h < 24 && mi < 60 && sec < 60;
  return same ? at.getTime() : null;
}
/** Milliseconds of a nanosecond time stamp written as a decimal string. */
export function nsToMs(ns: string): number {
  return ns.length > 6 ? Number(ns.slice(0, -6)) + Number(ns.slice(-6)) / 1e6 : Number(ns) / 1e6;
}
/** 2026-03-09 14:03:09.123456789 in local time. */
export function nsFull(ns: string): string {
  const ms = Math.floor(nsToMs(ns));
  return `${day(ms)} ${clock(ms)}.${ns.slice(-9).padStart(9, '0')}`;
}

/** Labels of time axis splits (seconds): the day is added where it changes. */
export function axisTimes(splits: number[], stepSec: number): string[] {
  let last = '';
  return splits.map((s) => {
    const ms = s * 1000;
    const d = day(ms);
    const hm = stepSec < 60 ? clock(ms) : clock(ms).slice(0, 5);
    const newDay = d !== last;
    const first = last === '';
    last = d;
    if (stepSec >= 86400) return d.slice(5);
    return newDay && !first ? (hm.startsWith('00:00') ? d.slice(5) : `${d.slice(5)} ${hm}`) : hm;
  });
}

/** The name of a series made of its labels, without the ones in `drop`. */
export function seriesName(labels: Record<string, string>, drop: string[] = []): string {
  const rest = Object.entries(labels).filter(([k]) => k !== '__name__' && !drop.includes(k));
  const name = labels.__name__ ?? '';
  if (rest.length === 0) return name || '{}';
  return `${name}{${rest.map(([k, v]) => `${k}="${v}"`).join(', ')}}`;
}

/**
 * Names of series shown together: labels in `drop` and labels that are the same on all are left out; when one
 * label is all that differs, its value alone is the name.
 */
export function shortNames(all: Record<string, string>[], drop: string[] = []): string[] {
  if (all.length < 2) return all.map((l) => seriesName(l, drop));
  const keys = new Set(all.flatMap((l) => Object.keys(l)));
  const same = [...keys].filter((k) => all.every((l) => l[k] === all[0]![k]));
  const rest = [...keys].filter((k) => !same.includes(k) && !drop.includes(k));
  const only = rest.length === 1 ? rest[0]! : null;
  if (only) return all.map((l) => l[only] ?? '{}');
  return all.map((l) => seriesName(l, [...drop, ...same.filter((k) => k !== '__name__')]));
}

/** Bytes for narrow columns: 4.8M, 975K, 0. The unit is in the header. */
export function tight(v: number | null | undefined): string {
  if (v == null || !Number.isFinite(v)) return MISSING;
  let n = v;
  let i = 0;
  while (Math.abs(n) >= 1000 && i < 5) {
    n /= 1024;
    i++;
  }
  return `${i === 0 || n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2)}${['', 'K', 'M', 'G', 'T', 'P'][i]}`;
}
