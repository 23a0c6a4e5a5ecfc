/**
 * What sweeps over a log learn for the next sweep: images of programs, and the order of calls.
 *
 * @module
 */
import { OrderHints } from './order.js';
import { PageRanges } from './page-ranges.js';

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
