/**
 * References to devices, their locks and their names.
 *
 * Kernel     drivers/base/core.c
 * Invariant  I1  `release` is called exactly once, after everything that was managed for the device is gone.
 * Ordering   Device.refs is atomic; Device.lock protects `driver`, `driverData` and `dead`.
 *
 * @module
 */
import { read, write } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { opsAt, type OpsTable } from '../machine/ops-table.js';
import { warn } from '../machine/warn.js';
import { member, NULL } from '../memory/layout.js';
import { mutexLock, mutexUnlock } from '../sync/mutex.js';
import { refcountDecAndTest, refcountInc } from '../sync/refcount.js';
import { devresReleaseAll } from './devres.js';
import { Device } from './types.js';

/** A kind of device. @kernel struct device_type */
export interface DeviceType extends OpsTable {
  /** Frees the struct that the device is in. Called by the last putDevice, with no lock held. */
  readonly release?: (cpu: Cpu, dev: Device) => void;
}

/** Another reference; the caller has one. @kernel get_device */
export function getDevice(cpu: Cpu, dev: Device): Device {
  refcountInc(cpu, member(dev, Device.refs));
  return dev;
}

/** Gives a reference back; the last frees the device (I1). Sleeps. @kernel put_device */
export function putDevice(cpu: Cpu, dev: Device): void {
  if (refcountDecAndTest(cpu, member(dev, Device.refs))) deviceRelease(cpu, dev);
}

/** A device may be used without a driver, and have things managed for it. @kernel device_release */
function deviceRelease(cpu: Cpu, dev: Device): void {
  devresReleaseAll(cpu, dev);
  const type = opsAt(cpu, read(cpu, dev, Device.type)) as DeviceType;
  if (type.release === undefined) {
    warn(cpu, `device '${devName(cpu, dev)}' does not have a release() function`);
  } else {
    type.release(cpu, dev);
  }
}

/** Keeps drivers from being bound, and the one that is from going. Sleeps. @kernel device_lock */
export function deviceLock(cpu: Cpu, dev: Device): void {
  mutexLock(cpu, member(dev, Device.lock));
}

/** @kernel device_unlock */
export function deviceUnlock(cpu: Cpu, dev: Device): void {
  mutexUnlock(cpu, member(dev, Device.lock));
}

/** `pmem.3`: its kind and its number. @kernel dev_name */
export function devName(cpu: Cpu, dev: Device): string {
  const type = opsAt(cpu, read(cpu, dev, Device.type)) as DeviceType;
  return `${type.opsName}.${read(cpu, dev, Device.id)}`;
}

/** What the driver has left with the device. The device's lock must be held. @kernel dev_get_drvdata */
export function devGetDrvdata(cpu: Cpu, dev: Device): number {
  return read(cpu, dev, Device.driverData);
}

/** Leaves something with the device, until it is let go of. As above. @kernel dev_set_drvdata */
export function devSetDrvdata(cpu: Cpu, dev: Device, data: number): void {
  write(cpu, dev, Device.driverData, data);
}

/** True if it is bound to a driver. The device's lock must be held. @kernel device_is_bound */
export function deviceIsBound(cpu: Cpu, dev: Device): boolean {
  return read(cpu, dev, Device.driver) !== NULL;
}
