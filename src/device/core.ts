/**
 * What all of the device layer asks for.
 *
 * @module
 */
import { read } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { MACHINE, Machine } from '../machine/types.js';
import { NULL } from '../memory/layout.js';
import type { DeviceCore } from './types.js';

/** What this layer keeps for the machine. */
export function deviceCore(cpu: Cpu): DeviceCore {
  const core = read(cpu, MACHINE, Machine.deviceCore) as DeviceCore;
  if (core === NULL) bug('bootDevices has not been called');
  return core;
}
