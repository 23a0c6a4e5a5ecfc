/**
 * Which file a mapping is of, as far as a log of memory calls can tell.
 *
 * A descriptor's number says little, since programs open, map and close one file after another under
 * the same number. What tells them apart is how files are mapped: first from their beginning to a place
 * the kernel chooses, and then, if at all, piece by piece over that. So a mapping of a file from offset
 * 0 to no particular place begins a new file, and any other mapping of the descriptor is of the file
 * that it stood for last.
 *
 * @module
 */
import { pageAlignUp } from '../../base/units.js';
import type { ActionWith } from './operations.js';
import type { InFlight, ProcessState } from './state.js';

export const NO_FILE = -1;

export class Files {
  readonly #sizes: number[] = [];

  /** Sizes of all files: as far as they are mapped, in whole pages. Unit: bytes. */
  get sizes(): readonly number[] {
    return this.#sizes;
  }

  /** The file that a mapping is of; its index, or NO_FILE. */
  fileOf(flight: InFlight, action: ActionWith<'mmap'>): number {
    const { descriptor, opensFile } = flight;
    if (descriptor < 0) return NO_FILE;
    const { files } = flight.task.process;
    const known = opensFile ? undefined : files.get(descriptor);
    const file = known ?? this.#sizes.length;
    files.set(descriptor, file);
    const size = pageAlignUp(action.offset + action.length);
    this.#sizes[file] = Math.max(this.#sizes[file] ?? 0, size);
    return file;
  }

  /** A child begins with its parent's descriptors. */
  inherit(child: ProcessState, parent: ProcessState): void {
    child.files = new Map(parent.files);
  }
}
