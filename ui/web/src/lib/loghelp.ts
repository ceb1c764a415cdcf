// The examples of the help beside the search box. The texts are in the dictionaries, under the same names.

export const WORD_EXAMPLES = {
  word: 'timeout',
  phrase: '"disk full"',
  prefix: 'time*',
  wildcard: 'conn*ed',
  near: 'conection~',
  field: 'host:web-1',
  some: 'file:*access*',
  there: 'user:*',
  number: 'code:>499',
  severity: 'severity>=warning',
  regex: '/user_id=\\d+/',
  time: '@2026-11-27T10:00..11:00',
  or: 'error (disk OR memory) -debug',
} as const;

// They find something, if there is anything, whatever the streams of a site are called.
export const LINE_EXAMPLES = {
  selector: '{host=~"web-.*", source="journal"}',
  contains: '{host=~".+"} |= "error" != "debug"',
  regex: '{host=~".+"} |~ "(?i)timeout|refused"',
  label: '{host=~".+"} | unit="sshd.service"',
  level: '{host=~".+"} | detected_level=~"error|critical"',
  json: '{host=~".+"} | json | status >= 500 | __error__=""',
  logfmt: '{host=~".+"} | logfmt | took > 250ms | __error__=""',
  pattern:
    '{host=~".+"} | pattern "<ip> - <_> [<_>] \\"<method> <path> <_>\\" <status> <_>" | status >= 500 | __error__=""',
  format: '{host=~".+"} | json | line_format "{{.method}} {{.path}} {{.status}}"',
} as const;

export const NUMBER_EXAMPLES = {
  count: 'sum by (host) (count_over_time({host=~".+"} |= "error" [$__auto]))',
  levels: 'sum by (detected_level) (count_over_time({host=~".+"}[$__auto]))',
  top: 'topk(5, sum by (unit) (rate({host=~".+"}[5m])))',
  bytes: 'sum by (host) (bytes_rate({host=~".+"}[5m]))',
  share: 'sum(rate({host=~".+"} |= "error" [5m])) / sum(rate({host=~".+"}[5m]))',
  quantile:
    'quantile_over_time(0.95, {host=~".+"} | json | unwrap duration(took) | __error__="" [5m]) by (host)',
} as const;
