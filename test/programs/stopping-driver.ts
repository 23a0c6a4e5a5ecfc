/**
 * A driver whose callback does not return when a protection changes, which is done with mmap_lock held for writing:
 * it says in which thread it is, and stands still.
 *
 * @module
 */
import { BroadcastChannel, threadId } from 'node:worker_threads';

import { read } from '#memory';
import { defineOps, type SvmDriver, svmFault, svmInvalidate } from 'faultline';

import { MMU_NOTIFY_PROTECTION_VMA } from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';

/** On which it is said. */
export const STOPPED = 'stopping-driver';

const never = new Int32Array(new SharedArrayBuffer(4));

export const driver: SvmDriver = defineOps<SvmDriver>({
  opsName: 'stopping',
  invalidate: (cpu, interval, range, curSeq) => {
    if (read(cpu, range, MmuNotifierRange.event) === MMU_NOTIFY_PROTECTION_VMA) {
      new BroadcastChannel(STOPPED).postMessage(threadId);
      Atomics.wait(never, 0, 0);
    }
    return svmInvalidate(cpu, interval, range, curSeq);
  },
  fault: svmFault,
});
