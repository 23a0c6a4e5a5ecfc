/**
 * User mappings of a function's memory: which there are, and how they go.
 *
 * Kernel     the p2pmem/allocate attribute of drivers/pci/p2pdma.c, fs/kernfs/file.c
 * Protocol   A mapping is in the function's list as long as its user has it. When the memory goes, no mapping may
 *            begin any more, and those there are lose their pages; the user unmaps what is left of them.
 * Invariant  I1  Once unmapP2pmem has returned no page is mapped, and none will be.
 * Ordering   PciDev.mapLock.
 * Deviation  A mapping is a run of pages and not entries in a page table: the memory of devices has no words that
 *            a CPU could load.
 *
 * @module
 */
import { read, write } from '#memory';

import { PciDev } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kfree } from '../../machine/slab.js';
import { containerOf, member } from '../../memory/layout.js';
import { initListHead, listDelInit, ListHead, listNext } from '../../memory/list.js';
import { pfnToPage } from '../../memremap/hotplug.js';
import { putDevicePage } from '../../memremap/zone-device.js';
import { initMutex, mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { P2pmemMapping } from './types.js';

const MAP_LOCK = lockClass('p2pmem mappings');

/** Mappings may begin. Under the device's lock. */
export function openP2pmem(cpu: Cpu, pdev: PciDev): void {
  const head = member(pdev, PciDev.mappings);
  if (read(cpu, head, ListHead.next) === 0) {
    initMutex(cpu, member(pdev, PciDev.mapLock), MAP_LOCK);
    initListHead(cpu, head);
  }
  mutexLock(cpu, member(pdev, PciDev.mapLock));
  write(cpu, pdev, PciDev.mapOpen, 1);
  mutexUnlock(cpu, member(pdev, PciDev.mapLock));
}

/** None may begin, and those there are have no pages (I1). Sleeps. @kernel unmap_mapping_range */
export function unmapP2pmem(cpu: Cpu, pdev: PciDev): void {
  const head = member(pdev, PciDev.mappings);
  mutexLock(cpu, member(pdev, PciDev.mapLock));
  write(cpu, pdev, PciDev.mapOpen, 0);
  for (let link = listNext(cpu, head); link !== head; link = listNext(cpu, link)) {
    zapMapping(cpu, containerOf(link, P2pmemMapping.link));
  }
  mutexUnlock(cpu, member(pdev, PciDev.mapLock));
}

/** Takes the pages out of a mapping; each goes back with its reference. PciDev.mapLock must be held. */
export function zapMapping(cpu: Cpu, mapping: P2pmemMapping): void {
  const first = read(cpu, mapping, P2pmemMapping.first);
  const pages = read(cpu, mapping, P2pmemMapping.mapped);
  for (let pfn = first; pfn < first + pages; pfn++) putDevicePage(cpu, pfnToPage(cpu, pfn));
  write(cpu, mapping, P2pmemMapping.mapped, 0);
}

/** Its user unmaps it; the memory may be gone already. No lock held. Sleeps. @kernel munmap */
export function p2pmemMunmap(cpu: Cpu, pdev: PciDev, mapping: P2pmemMapping): void {
  mutexLock(cpu, member(pdev, PciDev.mapLock));
  zapMapping(cpu, mapping);
  listDelInit(cpu, member(mapping, P2pmemMapping.link));
  mutexUnlock(cpu, member(pdev, PciDev.mapLock));
  kfree(cpu, P2pmemMapping, mapping);
}
