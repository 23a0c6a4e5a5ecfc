/**
 * What sweeps over a log learn for the next sweep: images of programs, and the order of calls.
 *
 * @module
 */
import { PageRanges } from './page-ranges.js';
import type { StraceCall } from './parse.js';

/** Orders that no answer told when they mattered, but that later calls did. */
export class OrderHints {
  readonly #later = new Map<StraceCall, Set<StraceCall>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  isBefore(first: StraceCall, second: StraceCall): boolean {
    return this.#later.get(first)?.has(second) === true;
  }

  /** False if it is known already, or the opposite is. */
  add(first: StraceCall, second: StraceCall): boolean {
    if (this.isBefore(first, second) || this.isBefore(second, first)) return false;
    const later = this.#later.get(first);
    if (later === undefined) this.#later.set(first, new Set([second]));
    else later.add(second);
    this.#size++;
    return true;
  }
}

export class Learned {
  /** What each exec mapped by itself, as far as the log proves it, by its line. */
  readonly #images = new Map<number, PageRanges>();
  readonly order = new OrderHints();

  /** The image of the exec at a line of the log (there is at most one); what is learned is added to it. */
  imageAt(line: number): PageRanges {
    let image = this.#images.get(line);
    if (image === undefined) {
      image = new PageRanges();
      this.#images.set(line, image);
    }
    return image;
  }

  /** Grows with whatever is learned. */
  get amount(): number {
    let size = this.order.size;
    for (const image of this.#images.values()) {
      for (const { start, end } of image.ranges()) size += end - start;
    }
    return size;
  }
}
