import { describe, expect, it } from 'vitest';
import { diffOf, userState } from './access';

describe('diffOf', () => {
  it('puts what changed first and says how', () => {
    expect(
      diffOf({
        before: { role: 'viewer', url: 'a', gone: 1, deep: { x: 1, y: [1, 2] } },
        after: { role: 'operator', url: 'a', come: true, deep: { x: 2, y: [1, 2] } },
        link_by: 'node n1',
      }),
    ).toEqual({
      rows: [
        { key: 'come', before: undefined, after: 'true', kind: 'added' },
        { key: 'deep.x', before: '1', after: '2', kind: 'changed' },
        { key: 'gone', before: '1', after: undefined, kind: 'removed' },
        { key: 'role', before: 'viewer', after: 'operator', kind: 'changed' },
        { key: 'deep.y', before: '[1,2]', after: '[1,2]', kind: 'same' },
        { key: 'url', before: 'a', after: 'a', kind: 'same' },
      ],
      rest: [{ key: 'link_by', value: 'node n1' }],
    });
  });
  it('takes any detail', () => {
    expect(diffOf(undefined)).toEqual({ rows: [], rest: [] });
    expect(diffOf(null)).toEqual({ rows: [], rest: [] });
    expect(diffOf([1])).toEqual({ rows: [], rest: [{ key: '', value: '[1]' }] });
    expect(diffOf({ before: 3, reason: 'x' })).toEqual({ rows: [], rest: [{ key: 'reason', value: 'x' }] });
  });
});

describe('userState', () => {
  it('names the first thing that keeps a user out', () => {
    const u = { name: 'a', role: 'viewer' };
    expect(userState(u)).toBe('active');
    expect(userState({ ...u, link_expires: 5 })).toBe('active');
    expect(userState({ ...u, no_password: true, link_expires: 5 })).toBe('invited');
    expect(userState({ ...u, no_password: true })).toBe('noPassword');
    expect(userState({ ...u, no_password: true, disabled: true })).toBe('disabled');
  });
});
