/**
 * HMM's mirrors as they came, in 2017: the driver is told at the end of an invalidation.
 *
 * Kernel     mm/hmm.c of Linux 4.14 to 4.19 (hmm_invalidate_range_start, hmm_invalidate_range_end)
 * Protocol   invalidating task                        faulting task
 *              start: nothing                           range valid, and on the list
 *              change the CPU's page table,             read the CPU's page table
 *                free what is unmapped in full batches  lock
 *              end: mark ranges that are hit;           valid? map : unlock, again
 *                for each mirror: lock; unmap; unlock   unlock
 *
 * Invariant  I1  When nobody invalidates, the device maps nothing that the CPUs do not. No more than that: INV-20
 *                does not hold.
 * Ordering   The mark comes before the driver's lock, which orders it for the fault's last look.
 * Known bug  LT-18: between start and end the device uses pages that are free. Since 4.20 the driver is told at the
 *            start.
 * Deviation  start counted a sequence that nobody read. The release of mirrors is that of pop-loop, which came
 *            between two releases of Linux that both synchronised at the end.
 *
 * @module
 */
import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import type { MmStruct } from '../mm/types.js';
import type { MmuNotifierOps } from '../notifier/mmu-notifier-list.js';
import type { MmuNotifier, MmuNotifierRange } from '../notifier/types.js';
import { popMirrors } from './pop-loop.js';
import type { MirrorProtocol } from './protocol.js';
import { MARKED_RANGE_MEMBERS, markRanges } from './ranges.js';
import { joinSpace, SPACE_MEMBERS, spaceOf, syncMirrors } from './space.js';
import type { Mirror } from './types.js';

const notifierOps: MmuNotifierOps = defineKernelOps({
  opsName: 'hmm, sync at end',
  release: popMirrors,
  invalidateRangeEnd(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange) {
    const space = spaceOf(notifier);
    markRanges(cpu, space, range);
    if (!syncMirrors(cpu, space, range)) {
      bug('a driver that synchronises at the end cannot refuse: such mms were not reaped');
    }
  },
});

export const syncAtEnd: MirrorProtocol = defineKernelOps({
  opsName: 'sync-at-end',
  register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => joinSpace(cpu, mirror, mm, notifierOps),
  ...SPACE_MEMBERS,
  ...MARKED_RANGE_MEMBERS,
});
