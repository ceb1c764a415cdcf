import { afterEach, describe, expect, it } from 'vitest';
import { position } from './api';
import { DEFAULT_COLUMNS, type Export, exportCommand, exportURL } from './logexport';

const e: Export = {
  query: 'host:web-1 "disk full"',
  start: Date.UTC(2026, 10, 27, 10),
  end: Date.UTC(2026, 10, 27, 11),
  form: 'jsonl',
  order: 'oldest',
  columns: DEFAULT_COLUMNS,
  limit: null,
};
const asked = (x: Partial<Export>) =>
  Object.fromEntries(new URL(exportURL({ ...e, ...x }), 'https://n').searchParams);

describe('export', () => {
  afterEach(() => position.forget());
  it('asks for query and range as shown', () => {
    expect(asked({})).toEqual({
      query: 'host:web-1 "disk full"',
      start: '1795773600000',
      end: '1795777200000',
      format: 'jsonl',
      end_line: 'true',
    });
    expect(
      asked({ form: 'csv', columns: ' time, text ', order: 'newest', limit: 10, archive: 'r1' }),
    ).toMatchObject({
      format: 'csv',
      columns: 'time, text',
      order: 'newest',
      limit: '10',
      archive: 'r1',
      bom: 'true',
    });
    expect(asked({ form: 'text' }).bom).toBeUndefined();
    expect(asked({ form: 'csv', columns: '' }).columns).toBeUndefined();
    expect(asked({ form: 'text', columns: 'time' }).columns).toBeUndefined();
    expect(asked({ form: 'text' }).end_line).toBeUndefined();
  });
  it('does not go back behind what the page has seen', () => {
    position.atLeast(12);
    expect(asked({}).min_index).toBe('12');
  });
  it('has a command that a shell reads the same', () => {
    expect(exportCommand(e)).toBe(
      `triward logs export --start 2026-11-27T10:00:00.000Z --end 2026-11-27T11:00:00.000Z 'host:web-1 "disk full"' > logs.jsonl`,
    );
    expect(
      exportCommand({ ...e, query: "-it's", form: 'csv', columns: 'time,text', order: 'newest', limit: 5 }),
    ).toBe(
      `triward logs export --start 2026-11-27T10:00:00.000Z --end 2026-11-27T11:00:00.000Z --format csv --order newest --columns time,text --limit 5 -- '-it'\\''s' > logs.csv`,
    );
    expect(exportCommand({ ...e, query: '' })).not.toContain("''");
  });
});
