import { expect, test } from 'vitest';
import {
  heldBy,
  type IntegrityNode,
  nodeLevel,
  progress,
  type Verification,
  verdictLevel,
} from './integrity';

const node = (over: Partial<IntegrityNode>): IntegrityNode => ({
  node: 'n1',
  began: 0,
  last_pass: 1,
  last_took_ms: 0,
  last_equal: 0,
  left: [],
  found: [],
  bytes: 0,
  ...over,
});

test('what is incomplete is neither well nor damaged', () => {
  expect(['equal', 'differs', 'incomplete'].map(verdictLevel)).toEqual(['ok', 'critical', 'warning']);
});

test('a node that made an index again is only to be looked at', () => {
  expect(nodeLevel(node({}))).toBe('ok');
  expect(nodeLevel(node({ last_pass: 0 }))).toBe('unknown');
  expect(nodeLevel(node({ found: [{ at: 1, part: 'index', place: 'x' }] }))).toBe('warning');
  expect(nodeLevel(node({ failed: [{ step: 'state', error: 'x' }] }))).toBe('warning');
  expect(nodeLevel(node({ found: [{ at: 1, part: 'logs', place: 'x' }] }))).toBe('critical');
  expect(nodeLevel(node({ error: 'it does not answer' }))).toBe('unknown');
});

test('progress and holdings are short', () => {
  const v = {
    nodes: [
      { node: 'n1', answered: true, done: 2, all: 9 },
      { node: 'n2', answered: false },
      { node: 'n3', answered: true, all: 9, doing: 'files/logs' },
    ],
  } as Verification;
  expect(progress(v)).toBe('n1 2/9, n3 files/logs');
  expect(
    heldBy({ what: 'data', nodes: { n2: 'absent', n1: '3 0123456789abcdef0123456789abcdef' }, odd: ['n2'] }),
  ).toBe('n1: 3 01234567…; n2: absent');
});
