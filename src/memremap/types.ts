/**
 * Layouts of the memremap layer.
 *
 * @module
 */
import { DrainedRef } from '../deferred/types.js';
import { Page, Spinlock } from '../machine/types.js';
import { addresses, pointer, type Ptr, struct, word, words } from '../memory/layout.js';
import { Mutex } from '../sync/mutex.js';
import { WaitQueue } from '../sync/wait-queue.js';

/** Struct pages come and go by so many. */
export const SECTION_PAGES = 16;

/** The struct pages of one section. @kernel struct mem_section */
export const PageSection = struct('page_section', { pages: words(SECTION_PAGES * Page.words) });
export type PageSection = Ptr<'page_section'>;

/**
 * What a page of a device has in words that other pages use otherwise. Written before anybody can look the
 * page up, or by whoever has the page for itself.
 */
export const DevicePage = {
  /** The page map that the page is of. */
  pgmap: Page.next,
  /** The driver's own. @kernel zone_device_data */
  zoneDeviceData: Page.prev,
  /** The page's frame number. */
  pfn: Page.freelist,
} as const;

/** Slots of a table's root, and of each leaf. */
export const PFN_ROOT_SLOTS = 256;
export const PFN_LEAF_SLOTS = 256;

/** Slots for sections in a row. */
export const PfnLeaf = struct('pfn_leaf', {
  slots: words(PFN_LEAF_SLOTS), // what is stored, 0 = nothing; readers take no lock
  used: word, // slots that are not 0; under PfnTable.lock
  nextFree: pointer<'pfn_leaf'>(), // in a chain of leaves that are to be freed
});
export type PfnLeaf = Ptr<'pfn_leaf'>;

/** A word for each section of physical memory. */
export const PfnTable = struct('pfn_table', {
  lock: Spinlock, // who changes it
  root: words(PFN_ROOT_SLOTS), // leaves, 0 = none; readers take no lock
});
export type PfnTable = Ptr<'pfn_table'>;

/** What this layer keeps for a machine. */
export const MemremapCore = struct('memremap_core', {
  hotplugLock: Mutex, // struct pages come and go. @kernel mem_hotplug_lock
  idle: WaitQueue, // who waits for a page of FS_DAX memory to be used by nobody
  managed: word, // page maps whose pages are told when they are free; atomic. @kernel devmap_managed_key
  sections: word, // a pfn_table: the page_section of each section that is there
  pgmaps: word, // a pfn_table: the dev_pagemap of each section that has one
});
export type MemremapCore = Ptr<'memremap_core'>;

/** Ranges of one page map at most. */
export const PGMAP_RANGES_MAX = 4;

/** Memory of a device that has struct pages, and how its use is counted. @kernel struct dev_pagemap */
export const DevPagemap = struct('dev_pagemap', {
  form: word, // PGMAP_*: which of the protocols of teardown
  type: word, // MEMORY_DEVICE_*
  ops: word, // ops table: DevPagemapOps; 0 = none
  owner: word, // whose device-private pages
  nrRange: word, // how many ranges; while mapping, how many are done
  ranges: addresses(2 * PGMAP_RANGES_MAX), // start and end of each, end inclusive. Unit: bytes
  ref: pointer<'percpu_ref'>(), // counts users: its own, or in the older forms the caller's
  own: DrainedRef, // its own count
  pageRefs: word, // references that came with its pages, until they are put. Only for reports
  altmapReserve: word, // pages at the start that are not to be touched. Unit: pages
  altmapFree: word, // … and after these, for the struct pages themselves; 0: those are in memory
  altmapAlloc: word, // of these, in use; under hotplugLock
  data: word, // the driver's own
});
export type DevPagemap = Ptr<'dev_pagemap'>;
