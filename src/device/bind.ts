/**
 * Binding: a driver takes a device, and lets go of it.
 *
 * Kernel     drivers/base/dd.c
 * Protocol   All under the device's lock.
 *              bind     nothing is managed for it; dev.driver := drv; probe; on the driver's list
 *              … fails  undo what is managed; dev.driver := NULL
 *              unbind   remove; undo what is managed, newest first; dev.driver := NULL; off the list
 *            A device that comes is tried with each driver, a driver that comes on each device: whoever of
 *            the two is on the bus second finds the other.
 * Invariant  I1  A device is bound to at most one driver, and probe and remove take turns.
 *            I2  While remove runs, everything that probe had managed is still there.
 *            I3  Once driverUnregister has returned, the driver has no device and is not called any more.
 * Ordering   Device.lock, then Bus.lock or DeviceDriver.lock. A driver's list is changed with both the
 *            device's lock and its own held.
 *
 * @module
 */
import { read, write } from '#memory';
import { BUSTED_ATTACH, BUSTED_UNBIND, isMutant } from '#mutants';

import { EBUSY, ENODEV } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { opsAt } from '../machine/ops-table.js';
import { printk } from '../machine/printk.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import { listAddTail, listDelInit, listPrev } from '../memory/list.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  busAddDriver,
  busHasDriver,
  busRemoveDriver,
  driverMatchDevice,
  type DriverOps,
  getDriver,
  initDriver,
  nextDevice,
  nextDriver,
  putDriver,
} from './bus.js';
import {
  deviceIsBound,
  deviceLock,
  deviceUnlock,
  devName,
  devSetDrvdata,
  getDevice,
  putDevice,
} from './device-ref.js';
import { devresEmpty, devresReleaseAll } from './devres.js';
import { type Bus, Device, DeviceDriver } from './types.js';

// --- drivers come and go ---

/**
 * Puts a driver on the bus and binds it to the devices that it takes: 0, -EBUSY if it is there already,
 * -ENOMEM. `drv` is the caller's until driverUnregister. No lock held. Sleeps. @kernel driver_register
 */
export function driverRegister(cpu: Cpu, drv: DeviceDriver, bus: Bus, ops: DriverOps): number {
  if (busHasDriver(cpu, bus, ops)) return -EBUSY; // perhaps this one: it stays as it is
  initDriver(cpu, bus, drv, ops);
  if (isMutant(cpu, BUSTED_ATTACH)) driverAttach(cpu, drv, bus); // before it can be found
  const error = busAddDriver(cpu, drv);
  if (error === 0 && !isMutant(cpu, BUSTED_ATTACH)) driverAttach(cpu, drv, bus);
  return error;
}

/** Takes a driver off its bus; it lets go of its devices (I3). No lock held. Sleeps. @kernel driver_unregister */
export function driverUnregister(cpu: Cpu, drv: DeviceDriver): void {
  busRemoveDriver(cpu, drv);
  for (;;) {
    const dev = newestDevice(cpu, drv);
    if (dev === NULL) return;
    deviceLock(cpu, dev);
    if (read(cpu, dev, Device.driver) === drv) releaseDriver(cpu, dev, drv);
    deviceUnlock(cpu, dev);
    putDevice(cpu, dev);
  }
}

/** The device that the driver was bound to last, with a reference; NULL if it has none. */
function newestDevice(cpu: Cpu, drv: DeviceDriver): Device {
  const head = member(drv, DeviceDriver.devices);
  spinLock(cpu, member(drv, DeviceDriver.lock));
  const link = listPrev(cpu, head);
  const dev: Device = link === head ? NULL : getDevice(cpu, containerOf(link, Device.onDriver));
  spinUnlock(cpu, member(drv, DeviceDriver.lock));
  return dev;
}

/** Tries the driver on every device of the bus. */
function driverAttach(cpu: Cpu, drv: DeviceDriver, bus: Bus): void {
  for (let dev = nextDevice(cpu, bus, NULL); dev !== NULL; dev = nextDevice(cpu, bus, dev)) {
    if (!driverMatchDevice(cpu, drv, dev)) continue;
    deviceLock(cpu, dev);
    if (!deviceIsBound(cpu, dev)) driverProbeDevice(cpu, drv, dev);
    deviceUnlock(cpu, dev);
  }
}

// --- devices come and go ---

/** Tries every driver of its bus on the device, until one takes it. Sleeps. @kernel device_initial_probe */
export function deviceInitialProbe(cpu: Cpu, dev: Device): void {
  const bus = read(cpu, dev, Device.bus);
  deviceLock(cpu, dev);
  let drv: DeviceDriver = NULL;
  while (!deviceIsBound(cpu, dev)) {
    drv = nextDriver(cpu, bus, drv);
    if (drv === NULL) break;
    if (driverMatchDevice(cpu, drv, dev)) driverProbeDevice(cpu, drv, dev);
  }
  if (drv !== NULL) putDriver(cpu, bus, drv);
  deviceUnlock(cpu, dev);
}

/** Its driver, if it has one, lets go of it. No lock held. Sleeps. @kernel device_release_driver */
export function deviceReleaseDriver(cpu: Cpu, dev: Device): void {
  deviceLock(cpu, dev);
  const drv = read(cpu, dev, Device.driver);
  if (drv !== NULL) releaseDriver(cpu, dev, drv);
  deviceUnlock(cpu, dev);
}

// --- by hand ---

/**
 * Binds a device to a driver, as a write to the driver's `bind` file does: 0, -ENODEV if they do not fit or
 * one of them is going, -EBUSY if it is bound, or what probe returned. No lock held. Sleeps.
 * @kernel bind_store, device_driver_attach
 */
export function deviceDriverAttach(cpu: Cpu, drv: DeviceDriver, dev: Device): number {
  const bus = read(cpu, dev, Device.bus);
  if (!getDriver(cpu, bus, drv)) return -ENODEV; // I3: who unregisters it waits for us
  let error = -ENODEV;
  if (driverMatchDevice(cpu, drv, dev)) {
    deviceLock(cpu, dev);
    error = driverProbeDevice(cpu, drv, dev);
    deviceUnlock(cpu, dev);
  }
  putDriver(cpu, bus, drv);
  return error;
}

/** Unbinds a device from a driver: 0, or -ENODEV if it is not bound to it. As above. @kernel unbind_store */
export function deviceDriverDetach(cpu: Cpu, drv: DeviceDriver, dev: Device): number {
  deviceLock(cpu, dev);
  const isBound = read(cpu, dev, Device.driver) === drv;
  if (isBound) releaseDriver(cpu, dev, drv);
  deviceUnlock(cpu, dev);
  return isBound ? 0 : -ENODEV;
}

// --- one device and one driver; all of these need the device's lock ---

/** @kernel __driver_probe_device, really_probe */
function driverProbeDevice(cpu: Cpu, drv: DeviceDriver, dev: Device): number {
  if (read(cpu, dev, Device.dead) !== 0) return -ENODEV;
  if (deviceIsBound(cpu, dev)) return -EBUSY;
  if (!devresEmpty(cpu, dev)) {
    printk(cpu, `${devName(cpu, dev)}: Resources present before probing`);
    return -EBUSY;
  }
  write(cpu, dev, Device.driver, drv);
  const error = driverOps(cpu, drv).probe(cpu, dev);
  if (error !== 0) {
    unbindCleanup(cpu, dev);
    return error;
  }
  spinLock(cpu, member(drv, DeviceDriver.lock));
  listAddTail(cpu, member(dev, Device.onDriver), member(drv, DeviceDriver.devices));
  spinUnlock(cpu, member(drv, DeviceDriver.lock));
  return 0;
}

/** @kernel __device_release_driver */
function releaseDriver(cpu: Cpu, dev: Device, drv: DeviceDriver): void {
  if (isMutant(cpu, BUSTED_UNBIND)) devresReleaseAll(cpu, dev); // I2
  const ops = driverOps(cpu, drv);
  if (ops.remove !== undefined) ops.remove(cpu, dev);
  unbindCleanup(cpu, dev);
  spinLock(cpu, member(drv, DeviceDriver.lock));
  listDelInit(cpu, member(dev, Device.onDriver));
  spinUnlock(cpu, member(drv, DeviceDriver.lock));
}

/** @kernel device_unbind_cleanup */
function unbindCleanup(cpu: Cpu, dev: Device): void {
  devresReleaseAll(cpu, dev);
  write(cpu, dev, Device.driver, NULL);
  devSetDrvdata(cpu, dev, 0);
}

function driverOps(cpu: Cpu, drv: DeviceDriver): DriverOps {
  return opsAt(cpu, read(cpu, drv, DeviceDriver.ops)) as DriverOps;
}
