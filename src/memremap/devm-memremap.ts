/**
 * Page maps that go when a driver lets go of its device.
 *
 * Kernel     mm/memremap.c (devm_memremap_pages)
 * Invariant  I1  After a success an action is there that unmaps; after a failure nothing is mapped, and no
 *                action is there (INV-34). PGMAP_UNCHECKED breaks that, as Linux did.
 *
 * @module
 */
import { read } from '#memory';
import { BUSTED_DEVM_MEMREMAP, isMutant } from '#mutants';

import {
  type DevmActionOps,
  devmAddAction,
  devmAddActionOrReset,
  devmReleaseAction,
} from '../device/devres.js';
import type { Device } from '../device/types.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { memremapPages, memunmapPages } from './memremap.js';
import { PGMAP_UNCHECKED } from './pagemap.js';
import { DevPagemap } from './types.js';

const unmapAction: DevmActionOps = defineKernelOps({
  opsName: 'devm_memremap_pages_release',
  action(cpu: Cpu, pgmap: number) {
    memunmapPages(cpu, pgmap as DevPagemap);
  },
});

/**
 * As memremapPages, until the device is let go of; also -ENOMEM if that cannot be written down, and then it has
 * been unmapped again. Sleeps. @kernel devm_memremap_pages
 */
export function devmMemremapPages(cpu: Cpu, dev: Device, pgmap: DevPagemap): number {
  const error = memremapPages(cpu, pgmap);
  if (error !== 0) return error;
  const isUnchecked = read(cpu, pgmap, DevPagemap.form) === PGMAP_UNCHECKED;
  if (isMutant(cpu, BUSTED_DEVM_MEMREMAP) || isUnchecked) {
    devmAddAction(cpu, dev, unmapAction, pgmap); // and does not look whether it could (LT-10)
    return 0;
  }
  return devmAddActionOrReset(cpu, dev, unmapAction, pgmap);
}

/** Unmaps such a page map now. Sleeps. @kernel devm_memunmap_pages */
export function devmMemunmapPages(cpu: Cpu, dev: Device, pgmap: DevPagemap): void {
  devmReleaseAction(cpu, dev, unmapAction, pgmap);
}
