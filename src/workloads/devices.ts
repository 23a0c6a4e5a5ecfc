/**
 * The devices of a benchmark, each with a context over the address space that everybody works on.
 *
 * @module
 */
import {
  closeContext,
  createSvmDevice,
  destroySvmDevice,
  openContext,
} from '../drivers/svm/device.js';
import type { SvmDriver } from '../drivers/svm/driver.js';
import type { SvmContext, SvmDevice } from '../drivers/svm/types.js';
import type { Cpu } from '../machine/cpu.js';
import { NULL } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import { outOfMemory } from './setup-memory.js';
import type { PointConfig } from './workload.js';

export interface OpenDevice {
  readonly device: SvmDevice;
  readonly context: SvmContext;
}

/** As many devices as the configuration says. @throws FaultlineError if memory is out */
export function openDevices(
  cpu: Cpu,
  config: PointConfig,
  driver: SvmDriver,
  mm: MmStruct,
): OpenDevice[] {
  return Array.from({ length: config.devices }, (_, id) => {
    const device = createSvmDevice(cpu, id, driver, config.rangePages);
    const context = device === NULL ? NULL : openContext(cpu, device, mm);
    if (context === NULL) throw outOfMemory();
    return { device, context };
  });
}

/** Closes the contexts and takes the devices away. Nobody may be running. */
export function closeDevices(cpu: Cpu, devices: readonly OpenDevice[]): void {
  for (const { device, context } of devices) {
    closeContext(cpu, context);
    destroySvmDevice(cpu, device);
  }
}
