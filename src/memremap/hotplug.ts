/**
 * Struct pages that come and go with the memory they are for.
 *
 * Kernel     mm/memory_hotplug.c (add_pages, arch_remove_memory), mm/sparse.c
 * Protocol   Whole sections, under the hotplug lock. A section's pages are zeroed and then looked up without a
 *            lock; whoever uses one must have a reference that keeps the section from going. A section that
 *            goes is filled with poison, so that a use that comes too late is seen.
 * Invariant  I1  No struct page is touched after the removal of its section has begun (INV-30): its mark says
 *                that it is there, and everybody who takes or gives a reference looks at it.
 *            I2  A section is added once.
 * Ordering   hotplugLock for who adds and removes; lookups are ordered by the table.
 * Deviation  Struct pages of a section are one struct; there is no virtual memory map, so that finding a page
 *            takes two loads more than it does in Linux. Memory that address spaces can map is different: the machine
 *            has set its frames aside, contents and struct pages, behind its own (MachineConfig.deviceBytes).
 *
 * @module
 */
import { fillWords, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../base/bug.js';
import { ENOMEM } from '../base/errno.js';
import { rcuReadLock, rcuReadUnlock, synchronizeRcu } from '../deferred/rcu.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf, type Pfn, pfnOf, POISON } from '../machine/page-alloc.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { DEVICE_PAGE_PRESENT, MACHINE, Machine, Page } from '../machine/types.js';
import { member, NULL } from '../memory/layout.js';
import { mutexLock, mutexUnlock } from '../sync/mutex.js';
import { memremapCore, sectionTable } from './core.js';
import { freePfnLeaves, pfnTableErase, pfnTableInsert, pfnTableLoad } from './pfn-table.js';
import { DevicePage, MemremapCore, PageSection, SECTION_PAGES } from './types.js';

/** Nobody else adds or removes memory from here on. Sleeps. @kernel mem_hotplug_begin */
export function memHotplugBegin(cpu: Cpu): void {
  mutexLock(cpu, member(memremapCore(cpu), MemremapCore.hotplugLock));
}

/** @kernel mem_hotplug_done */
export function memHotplugDone(cpu: Cpu): void {
  mutexUnlock(cpu, member(memremapCore(cpu), MemremapCore.hotplugLock));
}

/**
 * Makes struct pages for `count` sections from a frame on, with no references: 0, -EEXIST (I2), -ENOMEM. The
 * hotplug lock must be held. Sleeps. @kernel add_pages
 */
export function addPages(cpu: Cpu, first: Pfn, count: number): number {
  for (let i = 0; i < count; i++) {
    const error = addSection(cpu, first + i * SECTION_PAGES);
    if (error === 0) continue;
    removePages(cpu, first, i);
    return error;
  }
  return 0;
}

function addSection(cpu: Cpu, first: Pfn): number {
  const section = isSetAside(cpu, first) ? sectionSetAside(cpu, first) : kzalloc(cpu, PageSection);
  if (section === NULL) return -ENOMEM;
  for (let i = 0; i < SECTION_PAGES; i++) {
    const page = pageAt(section, i);
    write(cpu, page, DevicePage.pfn, first + i);
    writeOnce(cpu, page, Page.held, DEVICE_PAGE_PRESENT);
  }
  const error = pfnTableInsert(cpu, sectionTable(cpu), first, 1, section);
  if (error !== 0 && !isSetAside(cpu, first)) kfree(cpu, PageSection, section);
  return error;
}

/** True for frames that the machine has set aside for devices. */
function isSetAside(cpu: Cpu, pfn: Pfn): boolean {
  const first = read(cpu, MACHINE, Machine.deviceFirst);
  return pfn >= first && pfn < first + read(cpu, MACHINE, Machine.deviceCount);
}

/** Their struct pages, as new ones would be, but for the generation: that goes on. */
function sectionSetAside(cpu: Cpu, first: Pfn): PageSection {
  for (let pfn = first; pfn < first + SECTION_PAGES; pfn++) {
    const page = pageOf(cpu, pfn);
    const generation = readOnce(cpu, page, Page.generation);
    fillWords(cpu, page, 0, Page.words);
    writeOnce(cpu, page, Page.generation, generation + 1);
  }
  return pageOf(cpu, first) as number as PageSection;
}

/** Takes the struct pages of `count` sections away. The hotplug lock must be held. Sleeps. @kernel __remove_pages */
export function removePages(cpu: Cpu, first: Pfn, count: number): void {
  if (count === 0) return;
  for (let i = 0; i < count; i++) removeSection(cpu, first + i * SECTION_PAGES);
  const empty = pfnTableErase(cpu, sectionTable(cpu), first, count);
  if (empty === NULL) return;
  synchronizeRcu(cpu);
  freePfnLeaves(cpu, empty);
}

function removeSection(cpu: Cpu, first: Pfn): void {
  const page = pfnToPage(cpu, first);
  if (page === NULL) bug(`frame ${first} has no struct page to be removed`);
  const section = (page - PageSection.pages) as PageSection;
  fillWords(cpu, section, POISON, PageSection.words);
  if (!isSetAside(cpu, first)) kfree(cpu, PageSection, section);
}

function pageAt(section: PageSection, index: number): Page {
  return (section + PageSection.pages + index * Page.words) as Page;
}

/** The Page of a frame, of memory or of a device; NULL if it has none. @kernel pfn_to_online_page, pfn_to_page */
export function pfnToPage(cpu: Cpu, pfn: Pfn): Page {
  if (pfn < read(cpu, MACHINE, Machine.frameCount)) return pageOf(cpu, pfn);
  rcuReadLock(cpu);
  const section = pfnTableLoad(cpu, sectionTable(cpu), pfn) as PageSection;
  rcuReadUnlock(cpu);
  return section === NULL ? NULL : pageAt(section, pfn % SECTION_PAGES);
}

/** The frame of a Page. The caller has a reference to it. @kernel page_to_pfn */
export function pageToPfn(cpu: Cpu, page: Page): Pfn {
  if (!isDevicePage(cpu, page)) return pfnOf(cpu, page);
  assertPresent(cpu, page);
  return read(cpu, page, DevicePage.pfn);
}

/** True for pages that came after boot: those of devices. @kernel is_zone_device_page */
function isDevicePage(cpu: Cpu, page: Page): boolean {
  return page >= cpu.frames;
}

/** A struct page that was removed must not be touched (I1). @kernel PagePoisoned */
export function assertPresent(cpu: Cpu, page: Page): void {
  if (readOnce(cpu, page, Page.held) !== DEVICE_PAGE_PRESENT)
    bug(`INV-30: struct page ${page} was removed`);
}
