// The buffer behind the live tail: bounded, without doubles, frozen while the reader looks back.
import type { LogRow } from '../lib/types';

export type TailItem =
  | { key: string; row: LogRow; gap?: undefined }
  | { key: string; row?: undefined; gap: number | null };

export const TAIL_MAX = 5000;

export class TailBuffer {
  shown: TailItem[] = [];
  pending: TailItem[] = [];
  frozen = false;
  #seen = new Set<string>();
  #gaps = 0;

  reset(rows: LogRow[]): void {
    this.shown = [];
    this.pending = [];
    this.#seen.clear();
    this.#take(rows, this.shown);
    this.shown = this.#bound(this.shown);
  }
  add(rows: LogRow[]): void {
    const into = this.frozen ? [...this.pending] : [...this.shown];
    this.#take(rows, into);
    if (this.frozen) this.pending = this.#bound(into);
    else this.shown = this.#bound(into);
  }
  gap(dropped: number | undefined): void {
    const item: TailItem = {
      key: `gap${this.#gaps++}`,
      gap: dropped === undefined || dropped < 0 ? null : dropped,
    };
    if (this.frozen) this.pending = [...this.pending, item];
    else this.shown = [...this.shown, item];
  }
  thaw(): void {
    this.frozen = false;
    this.shown = this.#bound([...this.shown, ...this.pending]);
    this.pending = [];
  }
  get fresh(): number {
    return this.pending.reduce((n, i) => n + (i.row ? 1 : 0), 0);
  }

  #take(rows: LogRow[], into: TailItem[]): void {
    for (const row of rows) {
      if (this.#seen.has(row.pos)) continue;
      this.#seen.add(row.pos);
      into.push({ key: row.pos, row });
    }
  }
  #bound(items: TailItem[]): TailItem[] {
    if (items.length <= TAIL_MAX) return items;
    for (const i of items.slice(0, items.length - TAIL_MAX)) this.#seen.delete(i.key);
    return items.slice(-TAIL_MAX);
  }
}
