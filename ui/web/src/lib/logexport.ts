// The export of log lines: the route, and the command that does the same.
import { position } from './api';

export const EXPORT_FORMS = ['jsonl', 'text', 'csv', 'raw'] as const;
export type ExportForm = (typeof EXPORT_FORMS)[number];
export const DEFAULT_COLUMNS = 'time,severity,host,source,file,unit,text';

export interface Export {
  query: string;
  /** ms */
  start: number;
  end: number;
  form: ExportForm;
  order: 'oldest' | 'newest';
  /** Of CSV. */
  columns: string;
  /** At most so many lines; all when null. */
  limit: number | null;
  /** A day that was brought back from the archive. */
  archive?: string;
}

export function exportURL(e: Export): string {
  const p = new URLSearchParams();
  const set = (k: string, v: string | number | undefined | null) => {
    if (v != null && v !== '') p.set(k, String(v));
  };
  set('query', e.query);
  set('start', e.start);
  set('end', e.end);
  set('format', e.form);
  if (e.order !== 'oldest') set('order', e.order);
  if (ownColumns(e)) set('columns', e.columns.trim());
  // A browser takes no trailers: the last line says that nothing is missing.
  if (e.form === 'jsonl') set('end_line', 'true');
  // Whoever saves CSV opens it in a spreadsheet, and Excel takes what has no mark for the characters of its own code page.
  if (e.form === 'csv') set('bom', 'true');
  set('limit', e.limit);
  set('archive', e.archive);
  const seen = position.get();
  if (seen > 0) set('min_index', seen);
  return `/v1/logs/export?${p}`;
}

/** The command, for a shell; it goes on at another node when one dies. It knows no days that were brought back. */
export function exportCommand(e: Export): string {
  const word = (s: string) => (/^[\w@%+=:,./-]+$/.test(s) ? s : `'${s.replaceAll("'", "'\\''")}'`);
  const out = ['triward logs export'];
  if (e.query) out.push(...(e.query.startsWith('-') ? ['--', word(e.query)] : [word(e.query)]));
  const flags = [`--start ${new Date(e.start).toISOString()}`, `--end ${new Date(e.end).toISOString()}`];
  if (e.form !== 'jsonl') flags.push(`--format ${e.form}`);
  if (e.order !== 'oldest') flags.push(`--order ${e.order}`);
  if (ownColumns(e)) flags.push(`--columns ${word(e.columns.trim())}`);
  if (e.limit) flags.push(`--limit ${e.limit}`);
  out.splice(1, 0, ...flags);
  return `${out.join(' ')} > logs.${{ jsonl: 'jsonl', text: 'txt', csv: 'csv', raw: 'log' }[e.form]}`;
}

function ownColumns(e: Export): boolean {
  const c = e.columns.replace(/\s/g, '');
  return e.form === 'csv' && c !== '' && c !== DEFAULT_COLUMNS;
}
