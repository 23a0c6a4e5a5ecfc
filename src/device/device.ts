/**
 * Devices: made, put on a bus, taken off it again, and freed when nobody refers to them.
 *
 * Kernel     drivers/base/core.c
 * Protocol   add:  on the bus's list first, then tried with every driver that is there.
 *            del:  dead, under its lock, so that nobody binds it any more; off the list; let go of by its
 *                  driver. The references of others go on; the last frees it.
 * Invariant  I1  A device that is dead is not bound, or is about to be let go of.
 *            I2  Of a device and a driver that fit and come at once, one finds the other on the bus.
 * Ordering   Device.lock protects `dead`; Bus.lock the lists (I2).
 * Deviation  No sysfs, no power management, no parents, no links between devices, no deferred probing.
 *
 * @module
 */
import { write } from '#memory';

import { ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { failSite, shouldFail } from '../machine/fail.js';
import { lockClass } from '../machine/lock-class.js';
import { opsIndex } from '../machine/ops-table.js';
import { member } from '../memory/layout.js';
import { initListHead } from '../memory/list.js';
import { initMutex } from '../sync/mutex.js';
import { refcountSet } from '../sync/refcount.js';
import { deviceInitialProbe, deviceReleaseDriver } from './bind.js';
import { busAddDevice, busRemoveDevice } from './bus.js';
import { deviceLock, type DeviceType, deviceUnlock, getDevice, putDevice } from './device-ref.js';
import { devresInit } from './devres.js';
import { type Bus, Device } from './types.js';

const DEVICE_LOCK = lockClass('device_lock');
const DEVICE_ADD = failSite('device_add');

/** Makes a device with one reference, the caller's. The memory is zeroed. @kernel device_initialize */
export function deviceInitialize(cpu: Cpu, dev: Device, type: DeviceType, id: number): void {
  refcountSet(cpu, member(dev, Device.refs), 1);
  write(cpu, dev, Device.type, opsIndex(cpu, type));
  write(cpu, dev, Device.id, id);
  initMutex(cpu, member(dev, Device.lock), DEVICE_LOCK);
  initListHead(cpu, member(dev, Device.onBus));
  initListHead(cpu, member(dev, Device.onDriver));
  devresInit(cpu, dev);
}

/** Puts it on a bus, and binds it if a driver takes it: 0 or -ENOMEM. No lock held. Sleeps. @kernel device_add */
export function deviceAdd(cpu: Cpu, dev: Device, bus: Bus): number {
  if (shouldFail(cpu, DEVICE_ADD)) return -ENOMEM;
  getDevice(cpu, dev);
  busAddDevice(cpu, bus, dev);
  deviceInitialProbe(cpu, dev);
  return 0;
}

/** Takes it off its bus; its driver lets go of it. No lock held. Sleeps. @kernel device_del */
export function deviceDel(cpu: Cpu, dev: Device): void {
  deviceLock(cpu, dev);
  write(cpu, dev, Device.dead, 1);
  deviceUnlock(cpu, dev);
  busRemoveDevice(cpu, dev);
  deviceReleaseDriver(cpu, dev);
  putDevice(cpu, dev);
}

/** As deviceDel, and gives the first reference back. Sleeps. @kernel device_unregister */
export function deviceUnregister(cpu: Cpu, dev: Device): void {
  deviceDel(cpu, dev);
  putDevice(cpu, dev);
}
