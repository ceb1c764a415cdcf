// Suggestions of the log search box: the server reads the query and says what goes where, in bytes.

export interface LogSuggestion {
  kind: 'word' | 'name' | 'value' | 'stage';
  text: string;
  insert: string;
  from: number;
  to: number;
  /** In how many lines it was seen; absent when nobody counted. */
  lines?: number;
  open?: boolean;
  lead?: boolean;
}
export interface LogSuggestions {
  items: LogSuggestion[] | null;
  cut?: boolean;
  partial?: boolean;
}

const encoder = new TextEncoder();

/** The byte of the query at a place in its text. */
export function byteAt(text: string, at: number): number {
  return encoder.encode(text.slice(0, at)).length;
}

/** The place in the text of a byte of the query; the end when there is none. */
export function placeOf(text: string, byte: number): number {
  let bytes = 0;
  let at = 0;
  for (const c of text) {
    if (bytes >= byte) return at;
    bytes += encoder.encode(c).length;
    at += c.length;
  }
  return at;
}

/** The query with a suggestion in its place, and where typing goes on. */
export function accept(text: string, s: LogSuggestion): { text: string; caret: number } {
  const from = placeOf(text, s.from);
  const to = Math.max(from, placeOf(text, s.to));
  return { text: text.slice(0, from) + s.insert + text.slice(to), caret: from + s.insert.length };
}

/** Whether what stands before the caret is something to go on from; an empty place is only asked about by a key. */
export function typed(text: string, caret: number): boolean {
  const c = text.slice(0, caret).at(-1);
  return c !== undefined && !/[\s()"*~]/.test(c);
}

/** The suggestion that the arrow keys go to; -1 is the text itself. */
export function moved(at: number, by: number, count: number): number {
  const places = count + 1;
  return ((((at + 1 + by) % places) + places) % places) - 1;
}
