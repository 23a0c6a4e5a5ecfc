/**
 * Layouts of a device whose memory address spaces can map.
 *
 * @module
 */
import { Spinlock } from '../../machine/types.js';
import { address, pointer, type Ptr, struct, word } from '../../memory/layout.js';
import { DevPagemap } from '../../memremap/types.js';

/** A page of the device's, besides its struct page; the device's pages have them in a row. */
export const DevmemPage = struct('devmem_page', {
  va: address, // where it was handed out for
  mm: pointer<'mm_struct'>(), // … and in which address space; only to be compared
  next: word, // while it is free: number of the next free page, plus 1; 0 = the last
  unused: word,
});
export type DevmemPage = Ptr<'devmem_page'>;

/** The device. */
export const Devmem = struct('devmem', {
  pgmap: DevPagemap,
  lock: Spinlock, // free, inUse
  free: word, // number of the page that was freed last, plus 1; 0 = none is free
  inUse: word, // pages that are handed out
  first: word, // frame of page 0
  count: word, // pages
  pages: word, // their DevmemPages
  observer: word, // ops table: DevmemObserver; 0 = nobody
  data: word, // the observer's own
});
export type Devmem = Ptr<'devmem'>;
