/**
 * Ranges of physical addresses that go when a driver lets go of its device.
 *
 * @module
 */
import { ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { NULL } from '../memory/layout.js';
import { devmAddRegion, devmReleaseRegion } from './devres.js';
import { freeRegion, requestFreeMemRegion, requestMemRegion } from './region.js';
import type { Device, Resource } from './types.js';

/** As requestMemRegion, until the device is let go of. @kernel devm_request_mem_region */
export function devmRequestMemRegion(cpu: Cpu, dev: Device, start: number, size: number): Resource {
  const region = requestMemRegion(cpu, start, size);
  if (region === NULL) return NULL;
  return manage(cpu, dev, region) === 0 ? region : NULL;
}

/** As requestFreeMemRegion, until the device is let go of. @kernel devm_request_free_mem_region */
export function devmRequestFreeMemRegion(cpu: Cpu, dev: Device, size: number): Resource {
  const region = requestFreeMemRegion(cpu, size);
  if (region < 0) return region;
  return manage(cpu, dev, region) === 0 ? region : (-ENOMEM as Resource);
}

/** Gives such a range back now. @kernel devm_release_mem_region */
export function devmReleaseMemRegion(cpu: Cpu, dev: Device, region: Resource): void {
  devmReleaseRegion(cpu, dev, region);
}

/** The range goes with the device, or at once if that cannot be written down. */
function manage(cpu: Cpu, dev: Device, region: Resource): number {
  const error = devmAddRegion(cpu, dev, region);
  if (error !== 0) freeRegion(cpu, region);
  return error;
}
