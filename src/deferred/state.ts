/**
 * Where a machine keeps what this layer has one of.
 *
 * @module
 */
import { read } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { MACHINE, Machine } from '../machine/types.js';
import type { Deferred } from './types.js';

/** It; bootDeferred has made it. */
export function deferredOf(cpu: Cpu): Deferred {
  const deferred = read(cpu, MACHINE, Machine.deferred) as Deferred;
  if (deferred === 0) bug('there are no work queues on this machine: call bootDeferred first');
  return deferred;
}
