// Edits of the search line: adding and dropping terms without understanding the whole language.

/** A value as the query language needs it: bare when it is one plain word, else in double quotes. */
export function quote(value: string): string {
  return /^[\p{L}\p{N}_.@-]+$/u.test(value) ? value : `"${value.replace(/[\\"]/g, '\\$&')}"`;
}

/** A field's name as the query language needs it to mean that field and nothing else. */
export function fieldName(name: string): string {
  return /^[a-zA-Z_@][\w.@-]*$/.test(name) && !/^(severity|level|kind|@\d.*)$/.test(name)
    ? name
    : `"${name.replace(/[\\"]/g, '\\$&')}"`;
}

/** The condition that field, which is a name as the language has it, is value. */
export function term(field: string, value: string, negate = false): string {
  return `${negate ? '-' : ''}${field}:${quote(value)}`;
}

/** Length of the /expression/ that text starts with; 0 when it is none (a path, say). */
function regexLength(text: string): number {
  const m = /^\/(?:\\.|[^/\\])+\/(?=[\s()]|$)/.exec(text);
  return m ? m[0].length : 0;
}

/** Splits a query at spaces outside quotes, brackets and slashes-free words. */
export function parts(query: string): string[] {
  const out: string[] = [];
  let cur = '';
  let quoted = false;
  let depth = 0;
  for (let i = 0; i < query.length; i++) {
    const c = query[i]!;
    if (c === '\\' && quoted) {
      cur += c + (query[++i] ?? '');
      continue;
    }
    // A regular expression may hold anything up to its closing slash.
    const re =
      !quoted && c === '/' && (cur === '' || /^-?([\w.@-]+|"(\\.|[^"\\])*"):$/.test(cur))
        ? regexLength(query.slice(i))
        : 0;
    if (re > 0) {
      cur += query.slice(i, i + re);
      i += re - 1;
      continue;
    }
    if (c === '"') quoted = !quoted;
    else if (!quoted && c === '(') depth++;
    else if (!quoted && c === ')') depth--;
    if (/\s/.test(c) && !quoted && depth <= 0) {
      if (cur) out.push(cur);
      cur = '';
    } else cur += c;
  }
  if (cur) out.push(cur);
  return out;
}

/** Adds a filter; its opposite is dropped, and a filter that is there already stays single. */
export function addTerm(query: string, field: string, value: string, negate = false): string {
  const wanted = term(field, value, negate);
  const opposite = term(field, value, !negate);
  const rest = parts(query).filter((p) => p !== opposite && p !== wanted);
  // A query of alternatives must be bound together before another condition is put beside it.
  const loose = rest.includes('OR');
  const base = loose ? `(${rest.join(' ')})` : rest.join(' ');
  return base ? `${base} ${wanted}` : wanted;
}

export function dropTerm(query: string, part: string): string {
  const all = parts(query);
  const i = all.indexOf(part);
  if (i >= 0) all.splice(i, 1);
  return all.join(' ');
}

/** Plain words and phrases of the query, to mark them in the result. */
export function words(query: string): string[] {
  const out: string[] = [];
  for (const p of parts(query.replace(/[()]/g, ' '))) {
    if (
      p.startsWith('-') ||
      /^(AND|OR|NOT)$/.test(p) ||
      /^([\w.@-]+|"(\\.|[^"\\])*")[:<>]/.test(p) ||
      /^(\/|@(\.\.)?\d)/.test(p)
    )
      continue;
    if (/^[^"]+~[12]?$/.test(p)) continue; // what it finds is spelt otherwise
    const bare = p.startsWith('"') ? [p.replace(/\*$/, '').replace(/^"|"$/g, '')] : p.split('*');
    out.push(...bare.filter((w) => w.length > 1));
  }
  return out.slice(0, 12);
}

/** Cuts text into marked and plain pieces. */
export function mark(text: string, needles: string[]): { s: string; hit: boolean }[] {
  if (needles.length === 0) return [{ s: text, hit: false }];
  const re = new RegExp(needles.map((n) => n.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|'), 'giu');
  const out: { s: string; hit: boolean }[] = [];
  let at = 0;
  for (const m of text.matchAll(re)) {
    if (m.index > at) out.push({ s: text.slice(at, m.index), hit: false });
    out.push({ s: m[0], hit: true });
    at = m.index + m[0].length;
    if (out.length > 200) break;
  }
  if (at < text.length) out.push({ s: text.slice(at), hit: false });
  return out;
}
