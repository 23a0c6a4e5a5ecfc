/**
 * A set of addresses as sorted ranges: what is mapped, as far as that is all one wants to know.
 *
 * Kept as one sorted list of bounds, start, end, start, end, …; so an address is in the set if the
 * number of bounds at or before it is odd, and every operation is a search for two positions and one
 * splice between them. Ranges that touch become one.
 *
 * @module
 */

/** From `start` up to, not including, `end`. Unit: bytes. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

export class PageRanges {
  readonly #bounds: number[];

  constructor(ranges: readonly Range[] = []) {
    this.#bounds = [];
    for (const { start, end } of ranges) this.add(start, end);
  }

  copy(): PageRanges {
    const copy = new PageRanges();
    for (const bound of this.#bounds) copy.#bounds.push(bound);
    return copy;
  }

  get isEmpty(): boolean {
    return this.#bounds.length === 0;
  }

  ranges(): Range[] {
    const ranges: Range[] = [];
    for (let i = 0; i < this.#bounds.length; i += 2) {
      ranges.push({ start: this.#bound(i), end: this.#bound(i + 1) });
    }
    return ranges;
  }

  add(start: number, end: number): void {
    if (start >= end) return;
    const from = this.#countBelow(start);
    const to = this.#countUpTo(end);
    const bounds = from % 2 === 0 ? [start] : [];
    if (to % 2 === 0) bounds.push(end);
    this.#bounds.splice(from, to - from, ...bounds);
  }

  remove(start: number, end: number): void {
    if (start >= end) return;
    const from = this.#countBelow(start);
    const to = this.#countUpTo(end);
    const bounds = from % 2 === 1 ? [start] : [];
    if (to % 2 === 1) bounds.push(end);
    this.#bounds.splice(from, to - from, ...bounds);
  }

  /** True if every address of the range is in the set. */
  covers(start: number, end: number): boolean {
    if (start >= end) return true;
    const index = this.#countUpTo(start);
    return index % 2 === 1 && this.#bound(index) >= end;
  }

  /** True if any address of the range is in the set. */
  intersects(start: number, end: number): boolean {
    if (start >= end) return false;
    const index = this.#countUpTo(start);
    return index % 2 === 1 || this.#bound(index) < end;
  }

  /** The parts of the range that are not in the set. */
  missing(start: number, end: number): Range[] {
    const gaps: Range[] = [];
    let index = this.#countUpTo(start);
    let at = index % 2 === 1 ? this.#bound(index++) : start;
    while (at < end) {
      gaps.push({ start: at, end: Math.min(this.#bound(index), end) });
      at = this.#bound(index + 1);
      index += 2;
    }
    return gaps;
  }

  /** Past the last bound there is nothing more. */
  #bound(index: number): number {
    return this.#bounds[index] ?? Infinity;
  }

  #countBelow(address: number): number {
    let low = 0;
    let high = this.#bounds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#bound(middle) < address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #countUpTo(address: number): number {
    let low = 0;
    let high = this.#bounds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#bound(middle) <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
