/**
 * The driver of the SVM device over the protocols that Linux has had: one driver object for each of them.
 *
 * The fault is the same for all, and is driver.ts's but for the door it goes through; `interval` differs from
 * `svmDriver` in that alone. Which protocol it is, the context's mirror knows.
 *
 * @module
 */
import { reachPoint } from '#debug';
import { read, readAddress, write } from '#memory';

import { FaultlineError } from '../../base/bug.js';
import { EBUSY, ENOMEM } from '../../base/errno.js';
import { hmmRangeFault } from '../../hmm/range-fault.js';
import { HmmRange } from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { tlbAwait, tlbKick } from '../../machine/tlb.js';
import { WAIT_DEVICE_FENCE } from '../../machine/wait-kind.js';
import { member, NULL } from '../../memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import type { MmStruct } from '../../mm/types.js';
import type { MmuNotifierRange } from '../../notifier/types.js';
import {
  createMirror,
  initRange,
  type MirrorOps,
  type MirrorProtocol,
  protocolOf,
} from '../../protocols/protocol.js';
import { PROTOCOLS } from '../../protocols/registry.js';
import { Mirror, MirrorRange } from '../../protocols/types.js';
import { mutexLock, mutexTrylock, mutexUnlock } from '../../sync/mutex.js';
import { killContext } from './device.js';
import {
  askForPages,
  mapIntoDevice,
  svmCountInvalidation,
  type SvmDriver,
  svmInvalidate,
  tryAgainUntil,
} from './driver.js';
import { deviceClearRange } from './page-table.js';
import { countUp } from './stats.js';
import { SvmContext, SvmRequest, SvmStats } from './types.js';

function contextOf(cpu: Cpu, mirror: Mirror): SvmContext {
  return read(cpu, mirror, Mirror.driverData) as SvmContext;
}

const svmMirrorOps: MirrorOps = defineKernelOps({
  opsName: 'svm mirror',
  lock(cpu: Cpu, mirror: Mirror, isBlockable: boolean) {
    const lock = member(contextOf(cpu, mirror), SvmContext.lock);
    if (!isBlockable) return mutexTrylock(cpu, lock);
    mutexLock(cpu, lock);
    return true;
  },
  unlock(cpu: Cpu, mirror: Mirror) {
    mutexUnlock(cpu, member(contextOf(cpu, mirror), SvmContext.lock));
  },
  clear(cpu: Cpu, mirror: Mirror, range: MmuNotifierRange) {
    deviceClearRange(cpu, contextOf(cpu, mirror), range);
    svmCountInvalidation(cpu, range);
  },
  kick(cpu: Cpu, mirror: Mirror) {
    tlbKick(cpu, member(contextOf(cpu, mirror), SvmContext.tlb));
  },
  settle(cpu: Cpu, mirror: Mirror) {
    tlbAwait(cpu, member(contextOf(cpu, mirror), SvmContext.tlb), WAIT_DEVICE_FENCE);
  },
  // faults hold mm_users: there is none to wait for when the address space ends
  release(cpu: Cpu, mirror: Mirror) {
    killContext(cpu, contextOf(cpu, mirror));
  },
});

/** As svmFault, over the context's protocol. */
export function mirrorFault(cpu: Cpu, context: SvmContext, request: SvmRequest): number {
  const mirror = read(cpu, context, SvmContext.mirror);
  const protocol = protocolOf(cpu, mirror);
  const hmmRange = member(request, SvmRequest.range);
  const start = readAddress(cpu, hmmRange, HmmRange.start);
  const range = stackPush(cpu, MirrorRange);
  initRange(cpu, range, mirror, start, readAddress(cpu, hmmRange, HmmRange.end));
  write(cpu, hmmRange, HmmRange.notifier, member(mirror, Mirror.interval));
  protocol.openRange?.(cpu, range);
  const error = faultRange(cpu, context, request, protocol, range);
  protocol.closeRange?.(cpu, range);
  stackPop(cpu, range);
  return error;
}

function faultRange(
  cpu: Cpu,
  context: SvmContext,
  request: SvmRequest,
  protocol: MirrorProtocol,
  range: MirrorRange,
): number {
  const hmmRange = member(request, SvmRequest.range);
  const mm = read(cpu, context, SvmContext.mm);
  const lock = member(context, SvmContext.lock);
  let deadline = 0;
  for (;;) {
    const refused = protocol.begin(cpu, range);
    if (refused !== 0) return refused;
    write(cpu, hmmRange, HmmRange.notifierSeq, read(cpu, range, MirrorRange.seq));
    if (read(cpu, request, SvmRequest.requests) !== 0) askForPages(cpu, request);
    mmapReadLock(cpu, mm);
    const result = hmmRangeFault(cpu, hmmRange);
    mmapReadUnlock(cpu, mm);
    reachPoint(cpu, 'a fault has read the page table');
    if (result === 0) {
      mutexLock(cpu, lock);
      if (!protocol.retry(cpu, range)) {
        const error = mapIntoDevice(cpu, context, hmmRange);
        mutexUnlock(cpu, lock);
        return error;
      }
      mutexUnlock(cpu, lock);
    } else if (result !== -EBUSY) {
      return result;
    }
    countUp(cpu, SvmStats.retries);
    deadline = tryAgainUntil(cpu, deadline);
    if (deadline === 0) return -EBUSY;
  }
}

function attachMirror(
  cpu: Cpu,
  context: SvmContext,
  mm: MmStruct,
  protocol: MirrorProtocol,
): number {
  const mirror = createMirror(cpu, protocol, svmMirrorOps, mm, context);
  if (mirror === NULL) return -ENOMEM;
  write(cpu, context, SvmContext.mirror, mirror);
  return 0;
}

function detachMirror(cpu: Cpu, context: SvmContext): void {
  const mirror = read(cpu, context, SvmContext.mirror);
  protocolOf(cpu, mirror).unregister(cpu, mirror); // freed with the context: faults may still come
}

function driverOver(protocol: MirrorProtocol): SvmDriver {
  return defineKernelOps({
    opsName: `svm over ${protocol.opsName}`,
    invalidate: svmInvalidate, // never called: the context's own interval is in no tree
    fault: mirrorFault,
    attach: (cpu: Cpu, context: SvmContext, mm: MmStruct) =>
      attachMirror(cpu, context, mm, protocol),
    detach: detachMirror,
  });
}

const DRIVERS: ReadonlyMap<string, SvmDriver> = new Map(
  PROTOCOLS.map(({ name, protocol }) => [name, driverOver(protocol)]),
);

/** The driver over the protocol of that name. @throws FaultlineError naming those there are */
export function svmDriverOver(name: string): SvmDriver {
  const driver = DRIVERS.get(name);
  if (driver !== undefined) return driver;
  const known = [...DRIVERS.keys()].join(', ');
  throw new FaultlineError('FAULTLINE_BAD_PROTOCOL', `no protocol '${name}'; there are ${known}`);
}
