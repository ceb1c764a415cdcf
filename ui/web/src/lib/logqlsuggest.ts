// What goes on from a LogQL query that is being typed: labels and their values in selectors, stages behind a bar. Words in
// a text are the server's to suggest.
import { call } from './api';
import { byteAt, type LogSuggestion } from './logsuggest';

/** Where in a LogQL query is typed. */
export type Spot =
  | { kind: 'name'; prefix: string; from: number; bare: boolean }
  | { kind: 'value'; name: string; prefix: string; from: number }
  | { kind: 'stage'; prefix: string; from: number }
  | { kind: 'text' };

const STAGES = [
  'json',
  'logfmt',
  'pattern',
  'regexp',
  'unpack',
  'decolorize',
  'line_format',
  'label_format',
  'drop',
  'keep',
  'unwrap',
];
const WITH_TEXT = new Set(['pattern', 'regexp', 'line_format']);

/** Null where there is nothing to suggest. */
export function spotOf(text: string, caret: number): Spot | null {
  let selector = false;
  let quote = '';
  let begun = 0; // of the string
  for (let i = 0; i < caret; i++) {
    const c = text[i]!;
    if (quote) {
      if (c === '\\' && quote === '"') i++;
      else if (c === quote) quote = '';
    } else if (c === '"' || c === '`') {
      quote = c;
      begun = i + 1;
    } else if (c === '{') selector = true;
    else if (c === '}') selector = false;
  }
  const before = text.slice(0, caret);
  if (quote) {
    const name = /(\w+)\s*(?:=~|!~|!=|=)\s*$/.exec(text.slice(0, begun - 1))?.[1];
    if (selector) return name ? { kind: 'value', name, prefix: text.slice(begun, caret), from: begun } : null;
    return name ? null : { kind: 'text' }; // a label filter compares whole values
  }
  const prefix = /\w*$/.exec(before)![0];
  const from = caret - prefix.length;
  const front = before.slice(0, from);
  if (selector) return /[{,]\s*$/.test(front) ? { kind: 'name', prefix, from, bare: false } : null;
  if (/\b(?:by|without)\s*\((?:\s*\w+\s*,)*\s*$/i.test(front))
    return { kind: 'name', prefix, from, bare: true };
  return /\|\s*$/.test(front) && /[}"`)\w]\s*\|\s*$/.test(front) ? { kind: 'stage', prefix, from } : null;
}

/** Whether what was just typed calls for suggestions by itself. */
export function calls(spot: Spot | null): boolean {
  return (
    spot !== null &&
    (spot.kind === 'value' || spot.kind === 'name' || (spot.kind === 'stage' && spot.prefix !== ''))
  );
}

/** Those that begin with the prefix, then those that contain it. */
export function matching(all: string[], prefix: string, most: number): string[] {
  const p = prefix.toLowerCase();
  const begins = all.filter((x) => x.toLowerCase().startsWith(p));
  const contains = all.filter((x) => !x.toLowerCase().startsWith(p) && x.toLowerCase().includes(p));
  return [...begins, ...contains].filter((x) => x !== prefix).slice(0, most);
}

/** The suggestion in the place of what is typed, with what must follow. */
export function suggestion(
  spot: Exclude<Spot, { kind: 'text' }>,
  text: string,
  caret: number,
  choice: string,
): LogSuggestion {
  const after = text.slice(caret);
  let insert = choice;
  let to = caret;
  if (spot.kind === 'value') {
    insert = JSON.stringify(choice).slice(1);
    if (after.startsWith('"')) to++;
  } else if (spot.kind === 'name' && !spot.bare && !/^\w*\s*[=!]/.test(after)) insert = `${choice}="`;
  else if (spot.kind === 'stage' && WITH_TEXT.has(choice)) insert = `${choice} "`;
  if (spot.kind !== 'value') to += /^\w*/.exec(after)![0].length;
  return { kind: spot.kind, text: choice, insert, from: byteAt(text, spot.from), to: byteAt(text, to) };
}

export async function suggest(
  spot: Exclude<Spot, { kind: 'text' }>,
  text: string,
  caret: number,
  range: { start: string; end: string },
  most: number,
  signal: AbortSignal,
): Promise<LogSuggestion[]> {
  const all =
    spot.kind === 'stage'
      ? STAGES
      : spot.kind === 'name'
        ? ((await call<{ labels: string[] | null }>('/v1/logs/labels', { query: range, signal })).labels ??
          [])
        : ((
            await call<{ values: string[] | null }>(
              `/v1/logs/labels/${encodeURIComponent(spot.name)}/values`,
              {
                query: { ...range, limit: 10_000 },
                signal,
              },
            )
          ).values ?? []);
  return matching(all, spot.prefix, most).map((c) => suggestion(spot, text, caret, c));
}
