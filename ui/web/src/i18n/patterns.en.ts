// The texts of the patterns of lines on the page Logs.
const plural = (n: string, one: string, many: string) => `${n} ${n === '1' ? one : many}`;

export const patterns = {
  title: 'Patterns',
  show: 'Patterns',
  hint: 'What lines look like without what differs from one to the next (<*>). A click finds the lines.',
  col: {
    pattern: 'Pattern',
    lines: 'Lines',
    trend: 'Over time',
    firstLast: 'First and last',
  },
  of: (lines: string, patterns: string) =>
    `${plural(lines, 'line', 'lines')} of ${plural(patterns, 'pattern', 'patterns')}`,
  ofMany: (lines: string) => `${plural(lines, 'line', 'lines')} of very many patterns`,
  other: (n: string) => plural(n, 'line has another pattern', 'lines have other patterns'),
  capped: 'There are so many patterns that another one may be more frequent than the last of these.',
  isNew: 'new',
  onlyNew: 'Only new',
  news: (n: string, since: string) => `${plural(n, 'pattern is', 'patterns are')} new since ${since}`,
  kept: (from: string) => `lines are kept from ${from} on`,
  looking: 'Looking for new ones…',
  unknown: (why: string) => `Which are new could not be found out: ${why}`,
  none: 'No patterns',
  noneNew: 'Nothing new',
  noneNewHint: 'Every pattern of this range was there before.',
  only: 'Find its lines',
  without: 'Without these lines',
  trend: (n: string) => `${n} lines over time`,
};
