import { describe, expect, it } from 'vitest';
import { ApiError } from './api';
import { numbersFailure, numbersOf } from './lognumbers';

describe('numbers of a LogQL query', () => {
  it('are columns, with what they cost and what is missing', () => {
    const n = numbersOf(
      {
        data: {
          result: [
            {
              metric: { host: 'a' },
              values: [
                [10, '1'],
                [30, '2.5'],
              ],
            },
          ],
          stats: {
            summary: { totalLinesProcessed: 7, totalBytesProcessed: 70, execTime: 0.012 },
            triward: {
              blocksConsidered: 5,
              blocksSkipped: 3,
              blocksOpened: 2,
              partial: true,
              damaged: ['block 1'],
            },
          },
        },
        warnings: ['the answer is partial'],
      },
      10_000,
      30_000,
      10_000,
    );
    expect(n.columns).toEqual({ t0: 10_000, step: 10_000, labels: [{ host: 'a' }], v: [[1, null, 2.5]] });
    expect(n.total).toBe(1);
    expect(n.stats).toMatchObject({
      considered: 5,
      skipped: 3,
      blocks: 2,
      scanned_lines: 7,
      bytes: 70,
      ms: 12,
      partial: true,
    });
    expect(n.warnings).toEqual(['the answer is partial']);
    expect(numbersOf({}, 0, 0, 1000).columns.labels).toEqual([]);
  });
  it('tell the place of a mistake in characters', () => {
    const text = 'sum(rate({a="错误"} |= [5m]))';
    const e = new ApiError(400, 'parse error at line 1, col 25: text in quotes is expected');
    expect(numbersFailure(text, e)).toEqual({ message: 'text in quotes is expected', line: 1, col: 21 });
    expect(numbersFailure('sum(\nrate(', new ApiError(400, 'parse error at line 2, col 6: x'))).toEqual({
      message: 'x',
      line: 2,
      col: 6,
    });
    expect(numbersFailure('q', new ApiError(429, 'too many queries')).message).toBe('too many queries');
  });
});
