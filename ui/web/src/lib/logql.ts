// Queries in LogQL as text: which they are, their stages, and edits of these without understanding the whole language.

/** What a query in the search box is: the box's own language, LogQL for lines, or LogQL for numbers over time. */
export type QueryKind = 'words' | 'lines' | 'numbers';

const FUNCTIONS =
  'rate|rate_counter|bytes_rate|(?:count|bytes|absent|sum|avg|min|max|first|last|stddev|stdvar|quantile)_over_time|' +
  'sum|avg|min|max|count|stddev|stdvar|topk|bottomk|approx_topk|sort|sort_desc|label_replace';
const NUMBERS = new RegExp(`^[\\s(]*(?:${FUNCTIONS})\\s*(?:\\(|(?:by|without)\\s*\\()`, 'i');

/**
 * A query for numbers begins with a function and has a selector in it: without one it would find nothing as LogQL, and
 * "sort(list)" is something that people look for.
 */
export function queryKind(text: string): QueryKind {
  if (/^\s*\{/.test(text)) return 'lines';
  if (/^[\s(]*vector\s*\(/i.test(text)) return 'numbers';
  if (!NUMBERS.test(text)) return 'words';
  for (const p of pieces(text)) if (!p.quoted && p.s.includes('{')) return 'numbers';
  return 'words';
}

/** The text cut into strings with their quotes, and what is between them. A # comment is a piece like a string. */
function pieces(text: string): { s: string; quoted: boolean }[] {
  const out: { s: string; quoted: boolean }[] = [];
  const strings = /"(?:\\.|[^"\\])*(?:"|$)|`[^`]*(?:`|$)|#[^\n]*/g;
  let at = 0;
  for (const m of text.matchAll(strings)) {
    if (m.index > at) out.push({ s: text.slice(at, m.index), quoted: false });
    out.push({ s: m[0], quoted: true });
    at = m.index + m[0].length;
  }
  if (at < text.length) out.push({ s: text.slice(at), quoted: false });
  return out;
}

export function quoted(value: string): string {
  return JSON.stringify(value);
}

/** Every selector of the query with one more condition: what a page that is about one host puts in front. */
export function withMatcher(text: string, name: string, value: string): string {
  const matcher = `${name}=${quoted(value)}`;
  const all = pieces(text);
  return all
    .map((p, i) => {
      if (p.quoted) return p.s;
      return p.s.replace(/\{(\s*)(\})?/g, (m, space: string, end: string | undefined, at: number) => {
        if (end) return `{${matcher}}`;
        // Nothing behind the brace that a comma may stand before: the query is not written to its end.
        const rest =
          p.s.slice(at + m.length) +
          all
            .slice(i + 1)
            .map((x) => x.s)
            .join('');
        return rest.trim() === '' ? `{${matcher}` : `{${matcher},${space || ' '}`;
      });
    })
    .join('');
}

/** The selector and the stages behind it, each as it is written. Put together again they are the query. */
export function stages(text: string): string[] {
  const out: string[] = [];
  let cur = '';
  let done = false; // the selector is closed
  const cut = () => {
    if (cur.trim()) out.push(cur.trim());
    cur = '';
  };
  for (const p of pieces(text.trim())) {
    if (p.quoted) {
      cur += p.s;
      continue;
    }
    for (let i = 0; i < p.s.length; i++) {
      if (done && begins(p.s, i, cur)) {
        cut();
        cur = /^(?:\|[=~>]?|![=~>])/.exec(p.s.slice(i))![0]; // the operator as one
        i += cur.length - 1;
        continue;
      }
      cur += p.s[i];
      if (p.s[i] === '}') done = true;
    }
  }
  cut();
  return out;
}
/** Whether a stage begins at i of a piece outside of strings; cur is what stands before it since the last one began. */
function begins(s: string, i: number, cur: string): boolean {
  if (s[i] === '|') return true;
  if (s[i] !== '!' || !/[=~>]/.test(s[i + 1] ?? '')) return false;
  // "!=" behind a name compares a label; else it filters lines.
  return (
    /[}"`)]\s*$/.test(cur) ||
    /[=<>]\s*[\w.]+\s*$/.test(cur) ||
    /^\|\s*(?:json|logfmt|unpack|decolorize)\s*$/.test(cur)
  );
}
/** The name that a label or field has in LogQL: what no name of a label may hold is "_" there. */
export function labelName(field: string): string {
  if (field === 'severity' || field === 'level') return 'detected_level';
  return field.replace(/[^\w]/gu, '_').replace(/^(?=\d)/, '_');
}

/** A label filter. Severities have names of their own. */
export function labelFilter(field: string, value: string, negate = false): string {
  const name = labelName(field);
  let v = value;
  if (name === 'detected_level') v = value === 'warning' ? 'warn' : value === 'unknown' ? '' : value;
  return `| ${name}${negate ? '!=' : '='}${quoted(v)}`;
}

export function addFilter(text: string, field: string, value: string, negate = false): string {
  const wanted = labelFilter(field, value, negate);
  const opposite = labelFilter(field, value, !negate);
  return [...stages(text).filter((s) => s !== wanted && s !== opposite), wanted].join(' ');
}

/** The query without a stage. The selector stays. */
export function dropStage(text: string, stage: string): string {
  const all = stages(text);
  const i = all.indexOf(stage);
  if (i > 0) all.splice(i, 1);
  return all.join(' ');
}

/** What a line must contain, to mark it in the result. */
export function needles(text: string): string[] {
  const out: string[] = [];
  for (const s of stages(text)) {
    if (!s.startsWith('|=')) continue;
    for (const p of pieces(s)) {
      if (p.quoted && !p.s.startsWith('#')) out.push(unquoted(p.s));
    }
  }
  return out.filter((s) => s !== '').slice(0, 12);
}
function unquoted(s: string): string {
  if (s.startsWith('`')) return s.replaceAll('`', '');
  try {
    return String(JSON.parse(s));
  } catch {
    return ''; // an escape that only Go has
  }
}

/** "$__auto" stands for the step of the chart, so that each line is counted once. */
export function withStep(text: string, stepMs: number): string {
  return text.replaceAll('$__auto', `${Math.max(1, Math.round(stepMs / 1000))}s`);
}
