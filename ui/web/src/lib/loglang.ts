// The two languages of the log search box, as the page edits them: a condition more, one less, what to mark.
import { addFilter, dropStage, labelFilter, needles, queryKind, stages } from './logql';
import { addTerm, dropTerm, parts, term, words } from './logquery';

export interface LogLanguage {
  /** The conditions of a query that can be taken out one by one. */
  parts(query: string): string[];
  /** Those of them that are filters on fields, or stages. */
  chips(query: string): string[];
  term(field: string, value: string, negate?: boolean): string;
  add(query: string, field: string, value: string, negate?: boolean): string;
  drop(query: string, part: string): string;
  needles(query: string): string[];
}

const WORDS: LogLanguage = {
  parts,
  chips: (q) => parts(q).filter((p) => /^-?(?:@(?:\.\.)?\d|[\w.@-]+[:<>])/.test(p)),
  term,
  add: addTerm,
  drop: dropTerm,
  needles: words,
};
const LOGQL: LogLanguage = {
  parts: (q) => stages(q).slice(1),
  chips: (q) => stages(q).slice(1),
  term: labelFilter,
  add: addFilter,
  drop: dropStage,
  needles,
};

export function languageOf(query: string): LogLanguage {
  return queryKind(query) === 'words' ? WORDS : LOGQL;
}
