/**
 * A function's memory in an address space.
 *
 * Kernel     p2pmem_alloc_mmap of drivers/pci/p2pdma.c, 6.2 and later
 * Protocol   Memory is taken from the pool, with a reference; then each page is inserted, and takes a reference of
 *            its own along; then the first reference is put. When a page is unmapped it goes back by itself.
 * Invariant  I1  Each page that is mapped has a reference of its page map.
 *            I2  After a failure there is no page mapped, and no reference. 6.12 breaks that, if the function is
 *                not mended: the reference that was taken with the memory stays, and who unbinds waits for ever.
 * Ordering   PciDev.mapLock.
 *
 * @module
 */
import { read, write } from '#memory';

import { EINVAL, ENODEV, ENOMEM } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { percpuRefGet, percpuRefPut } from '../../deferred/percpu-refcount.js';
import { PciDev } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { failSite, shouldFail } from '../../machine/fail.js';
import type { Pfn } from '../../machine/page-alloc.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { member, NULL } from '../../memory/layout.js';
import { listAddTail } from '../../memory/list.js';
import { pfnToPage } from '../../memremap/hotplug.js';
import { getDevicePage, putDevicePage } from '../../memremap/zone-device.js';
import { mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { zapMapping } from './mappings.js';
import { p2pdmaIsMended, p2pmemOwner, pciAllocP2pmem, returnPages } from './p2pdma.js';
import { P2pmemMapping } from './types.js';

const VM_INSERT_PAGE = failSite('vm_insert_page');

/**
 * Maps `pages` pages of a function's memory, to be unmapped by p2pmemMunmap. Negative if that fails: -EINVAL for no
 * pages, -ENODEV if the memory is gone, -ENOMEM. No lock held. Sleeps. @kernel p2pmem_alloc_mmap
 */
export function p2pmemMmap(cpu: Cpu, pdev: PciDev, pages: number): P2pmemMapping {
  if (pages < 1) return -EINVAL as P2pmemMapping;
  const mapping = kzalloc(cpu, P2pmemMapping);
  if (mapping === NULL) return -ENOMEM as P2pmemMapping;
  mutexLock(cpu, member(pdev, PciDev.mapLock));
  const isOpen = read(cpu, pdev, PciDev.mapOpen) !== 0;
  const error = isOpen ? fillMapping(cpu, pdev, mapping, pages) : -ENODEV;
  if (error === 0) {
    listAddTail(cpu, member(mapping, P2pmemMapping.link), member(pdev, PciDev.mappings));
  }
  mutexUnlock(cpu, member(pdev, PciDev.mapLock));
  if (error === 0) return mapping;
  kfree(cpu, P2pmemMapping, mapping);
  return error as P2pmemMapping;
}

function fillMapping(cpu: Cpu, pdev: PciDev, mapping: P2pmemMapping, pages: number): number {
  const first = pciAllocP2pmem(cpu, pdev, pages * PAGE_SIZE);
  if (first === 0) return -ENOMEM;
  const owner = p2pmemOwner(cpu, pdev, first);
  write(cpu, mapping, P2pmemMapping.first, first);
  for (let i = 0; i < pages; i++) {
    const error = insertPage(cpu, mapping, first + i);
    if (error === 0) {
      percpuRefGet(cpu, owner); // I1
      putDevicePage(cpu, pfnToPage(cpu, first + i)); // that it idled with
      continue;
    }
    returnPages(cpu, pdev, first + i, pages - i);
    zapMapping(cpu, mapping); // as mmap does with what was mapped
    if (p2pdmaIsMended(cpu, pdev)) percpuRefPut(cpu, owner); // I2
    return error;
  }
  percpuRefPut(cpu, owner);
  return 0;
}

/** @kernel vm_insert_page */
function insertPage(cpu: Cpu, mapping: P2pmemMapping, pfn: Pfn): number {
  if (shouldFail(cpu, VM_INSERT_PAGE)) return -ENOMEM;
  getDevicePage(cpu, pfnToPage(cpu, pfn));
  write(cpu, mapping, P2pmemMapping.mapped, read(cpu, mapping, P2pmemMapping.mapped) + 1);
  return 0;
}
