/**
 * What each exec mapped by itself, as far as the log proves it.
 *
 * @module
 */
import { PageRanges } from './page-ranges.js';

export class Images {
  readonly #byLine = new Map<number, PageRanges>();

  /** The image of the exec at a line of the log (there is at most one); what is learned is added to it. */
  at(line: number): PageRanges {
    let image = this.#byLine.get(line);
    if (image === undefined) {
      image = new PageRanges();
      this.#byLine.set(line, image);
    }
    return image;
  }

  /** Grows with whatever is learned. Unit: bytes. */
  get sizeBytes(): number {
    let size = 0;
    for (const image of this.#byLine.values()) {
      for (const { start, end } of image.ranges()) size += end - start;
    }
    return size;
  }
}
