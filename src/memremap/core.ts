/**
 * Where a machine keeps what this layer has one of, and how it comes there.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { kzalloc } from '../machine/slab.js';
import { MACHINE, Machine } from '../machine/types.js';
import { member, NULL } from '../memory/layout.js';
import { initMutex } from '../sync/mutex.js';
import { bootPageWaits } from '../sync/page-lock.js';
import { initWaitQueue } from '../sync/wait-queue.js';
import { initPfnTable } from './pfn-table.js';
import { MemremapCore, PfnTable } from './types.js';

const HOTPLUG_LOCK = lockClass('mem_hotplug_lock');
const IDLE = lockClass('dax_page->idle');

/** Makes empty tables. Runs once, on the boot CPU of a machine with memory, after bootDevices and bootDeferred. */
export function bootMemremap(cpu: Cpu): void {
  const core = kzalloc(cpu, MemremapCore);
  const sections = kzalloc(cpu, PfnTable);
  const pgmaps = kzalloc(cpu, PfnTable);
  if (core === NULL || sections === NULL || pgmaps === NULL) bug('there is no memory for memremap');
  bootPageWaits(cpu);
  initMutex(cpu, member(core, MemremapCore.hotplugLock), HOTPLUG_LOCK);
  initWaitQueue(cpu, member(core, MemremapCore.idle), IDLE);
  initPfnTable(cpu, sections);
  initPfnTable(cpu, pgmaps);
  write(cpu, core, MemremapCore.sections, sections);
  write(cpu, core, MemremapCore.pgmaps, pgmaps);
  write(cpu, MACHINE, Machine.memremapCore, core);
}

/** What this layer keeps for the machine. */
export function memremapCore(cpu: Cpu): MemremapCore {
  const core = read(cpu, MACHINE, Machine.memremapCore) as MemremapCore;
  if (core === NULL) bug('bootMemremap has not been called');
  return core;
}

/** The struct pages of each section. */
export function sectionTable(cpu: Cpu): PfnTable {
  return read(cpu, memremapCore(cpu), MemremapCore.sections) as PfnTable;
}

/** The page map of each section. */
export function pgmapTable(cpu: Cpu): PfnTable {
  return read(cpu, memremapCore(cpu), MemremapCore.pgmaps) as PfnTable;
}
