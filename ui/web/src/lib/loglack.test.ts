import { describe, expect, it } from 'vitest';
import { lacking } from './loglack';

describe('lacking', () => {
  it('is nothing of whole answers, and of those that are not there yet', () => {
    expect(
      lacking([
        { part: 'lines', stats: { partial: false } },
        { part: 'counts' },
        { part: 'values', stats: null },
      ]),
    ).toEqual({ parts: [], unasked: false, damaged: [], nodes: [] });
  });
  it('names each part once, and each damaged place, and says when nobody could be asked', () => {
    expect(
      lacking([
        { part: 'lines', stats: { partial: true, damaged: ['day 1', 'day 2'] } },
        { part: 'values', stats: { partial: true, damaged: ['day 2'] } },
        { part: 'values', stats: { partial: true, unasked: true, damaged: ['day 3'] } },
        { part: 'counts', stats: {} },
      ]),
    ).toEqual({
      parts: ['lines', 'values'],
      unasked: true,
      damaged: ['day 1', 'day 2', 'day 3'],
      nodes: [],
    });
  });
  it('names the nodes that answered in place of this one', () => {
    expect(
      lacking([
        { part: 'lines', stats: { node: 'n2' } },
        { part: 'counts', stats: { node: 'n2' } },
        { part: 'values', stats: { node: 'n3' } },
        { part: 'around', stats: { node: '' } },
      ]).nodes,
    ).toEqual(['n2', 'n3']);
  });
});
