// @vitest-environment jsdom
import { describe, expect, it } from 'vitest';
import { addDelta, fromMatrix, fromSnap, lastTime, mergeColumns } from './columns';

const a = { labels: { host: 'a' } };
const b = { labels: { host: 'b' } };

describe('columns', () => {
  it('takes a snapshot; what is no number is a gap, never zero', () => {
    const c = fromSnap(
      1000,
      10,
      [a, b],
      [
        [1, null, 3],
        [Number.NaN, 2],
      ],
    );
    expect(c.v).toEqual([
      [1, null, 3],
      [null, 2, null],
    ]);
    expect(lastTime(c)).toBe(1020);
  });
  it('slides over its window', () => {
    let c = fromSnap(0, 10, [a], [[1, 2, 3]]);
    c = addDelta(c, 30, [4], undefined, 3).columns;
    expect(c.t0).toBe(10);
    expect(c.v).toEqual([[2, 3, 4]]);
  });
  it('leaves gaps for instants that did not come and says so', () => {
    const r = addDelta(fromSnap(0, 10, [a], [[1]]), 30, [4], undefined, 10);
    expect(r.missed).toBe(true);
    expect(r.columns.v).toEqual([[1, null, null, 4]]);
  });
  it('overwrites the instant it has and ignores what is before the window', () => {
    const c = fromSnap(100, 10, [a], [[1, 2]]);
    expect(addDelta(c, 110, [5], undefined, 10).columns.v).toEqual([[1, 5]]);
    expect(addDelta(c, 90, [5], undefined, 10).columns).toBe(c);
  });
  it('follows a changed set: new series start, those that left keep their past', () => {
    const c = fromSnap(0, 10, [a], [[1, 2]]);
    const r = addDelta(c, 20, [7], [b], 10).columns;
    expect(r.labels).toEqual([{ host: 'b' }, { host: 'a' }]);
    expect(r.v).toEqual([
      [null, null, 7],
      [1, 2, null],
    ]);
  });
  it('drops a series that left once its past is out of the window', () => {
    let c = fromSnap(0, 10, [a], [[1]]);
    for (let t = 10; t <= 50; t += 10) c = addDelta(c, t, [t], [b], 3).columns;
    expect(c.labels).toEqual([{ host: 'b' }]);
  });
  it('starts from nothing', () => {
    const r = addDelta({ t0: 0, step: 10, labels: [], v: [] }, 500, [1], [a], 3);
    expect(r.columns.v).toEqual([[null, 1]]);
    expect(lastTime(r.columns)).toBe(500);
    expect(r.missed).toBe(false);
  });
  it('puts a matrix on its grid', () => {
    const c = fromMatrix(
      [
        {
          metric: { x: '1' },
          values: [
            [1, '5'],
            [3, 'NaN'],
          ],
        },
      ],
      1000,
      3000,
      1000,
    );
    expect(c.v).toEqual([[5, null, null]]);
  });
  it('merges equal grids and different ones', () => {
    const one = fromSnap(0, 10, [a], [[1, 2]]);
    const later = fromSnap(10, 10, [b], [[5, 6]]);
    expect(mergeColumns([one, later])).toEqual({
      xs: [0, 0.01, 0.02],
      cols: [
        [1, 2, null],
        [null, 5, 6],
      ],
    });
    const odd = fromSnap(5, 10, [b], [[9]]);
    expect(mergeColumns([one, odd])).toEqual({
      xs: [0, 0.005, 0.01],
      cols: [
        [1, null, 2],
        [null, 9, null],
      ],
    });
    expect(mergeColumns([])).toEqual({ xs: [], cols: [] });
  });
});
