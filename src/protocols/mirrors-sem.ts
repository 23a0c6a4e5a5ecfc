/**
 * HMM's mirrors as they nearly came to be: release calls the drivers with mirrorsSem held for writing.
 *
 * Kernel     the second version of the patch that gave mirrors a release (March 2018); the third landed, as pop-loop
 * Protocol   As pop-loop, but for
 *
 *              release: mirrorsSem for writing; for each mirror: release; unlock
 *
 * Invariant  As pop-loop: the list does not change under the walk, since nobody else can have the lock.
 * Ordering   As pop-loop.
 * Known bug  LT-1: a driver's release waits for its fault worker. The worker is in the middle of an invalidation,
 *            whose start waits for mirrorsSem: for ever. And LT-5, as pop-loop.
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { member, NULL } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import type { MmuNotifierOps } from '../notifier/mmu-notifier-list.js';
import type { MmuNotifier } from '../notifier/types.js';
import { downWrite, upWrite } from '../sync/rwsem.js';
import { markAgain, markAndSync, markDead } from './pop-loop.js';
import { mirrorOps, type MirrorProtocol } from './protocol.js';
import { MARKED_RANGE_MEMBERS } from './ranges.js';
import { firstMirror, joinSpace, nextMirror, SPACE_MEMBERS, spaceOf } from './space.js';
import { type Mirror, MirrorSpace } from './types.js';

/** The address space ends. Sleeps. */
function releaseLocked(cpu: Cpu, notifier: MmuNotifier): void {
  const space = spaceOf(notifier);
  const sem = member(space, MirrorSpace.mirrorsSem);
  markDead(cpu, space);
  downWrite(cpu, sem);
  for (let one = firstMirror(cpu, space); one !== NULL; one = nextMirror(cpu, space, one)) {
    mirrorOps(cpu, one).release(cpu, one); // LT-1
  }
  upWrite(cpu, sem);
}

const notifierOps: MmuNotifierOps = defineKernelOps({
  opsName: 'hmm, mirrors_sem held',
  release: releaseLocked,
  invalidateRangeStart: markAndSync,
  invalidateRangeEnd: markAgain,
});

export const mirrorsSem: MirrorProtocol = defineKernelOps({
  opsName: 'mirrors-sem',
  register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => joinSpace(cpu, mirror, mm, notifierOps),
  ...SPACE_MEMBERS,
  ...MARKED_RANGE_MEMBERS,
});
