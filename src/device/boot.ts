/**
 * What the device layer needs of a machine before its first device.
 *
 * @module
 */
import { read, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { PHYSICAL_END } from '../machine/limits.js';
import { lockClass } from '../machine/lock-class.js';
import { kzalloc } from '../machine/slab.js';
import { MACHINE, Machine } from '../machine/types.js';
import { member, NULL } from '../memory/layout.js';
import { initListHead } from '../memory/list.js';
import { initMutex } from '../sync/mutex.js';
import { initSpinlock } from '../sync/spinlock.js';
import { initWaitQueue } from '../sync/wait-queue.js';
import { type Era, ERAS } from './exports.js';
import {
  insertResource,
  IORESOURCE_BUSY,
  IORESOURCE_MEM,
  IORESOURCE_SYSTEM_RAM,
} from './resource.js';
import { DeviceCore, Resource } from './types.js';

const RESOURCE_LOCK = lockClass('resource_lock');
const MODULE_MUTEX = lockClass('module_mutex');
const MODULE_WAIT = lockClass('module_wq');

/**
 * Makes the tree of physical addresses, with the machine's memory in it, and the list of modules. `era` says
 * for whom symbols are. Runs once, on the boot CPU of a machine with memory.
 */
export function bootDevices(cpu: Cpu, era: Era = '6.12'): void {
  const core = kzalloc(cpu, DeviceCore);
  if (core === NULL) bug('there is no memory for the device layer');
  initSpinlock(cpu, member(core, DeviceCore.resourceLock), RESOURCE_LOCK);
  initMutex(cpu, member(core, DeviceCore.moduleLock), MODULE_MUTEX);
  initWaitQueue(cpu, member(core, DeviceCore.moduleWait), MODULE_WAIT);
  initListHead(cpu, member(core, DeviceCore.modules));
  write(cpu, core, DeviceCore.era, ERAS.indexOf(era));
  const iomem = member(core, DeviceCore.iomem);
  writeAddress(cpu, iomem, Resource.end, PHYSICAL_END - 1);
  write(cpu, iomem, Resource.flags, IORESOURCE_MEM);
  write(cpu, MACHINE, Machine.deviceCore, core);

  const ram = member(core, DeviceCore.systemRam);
  const ramBytes = read(cpu, MACHINE, Machine.frameCount) * PAGE_SIZE;
  writeAddress(cpu, ram, Resource.end, ramBytes - 1);
  write(cpu, ram, Resource.flags, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY);
  insertResource(cpu, iomem, ram);
}
