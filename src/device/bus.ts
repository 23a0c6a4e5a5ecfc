/**
 * Buses: which devices and drivers there are that may fit each other.
 *
 * Kernel     drivers/base/bus.c, lib/klist.c
 * Protocol   Walks go from one entry to the next without the lock in between, because a probe sleeps and
 *            may itself add to the bus. A device is kept by a reference while a walk is at it, a driver by
 *            its count of tries; entries have serial numbers, and a walk goes on at the next higher one.
 * Invariant  I1  A walk comes to every entry that was there when it began and is not taken off.
 *            I2  A driver that has left the bus is tried no more once busRemoveDriver has returned, nor by hand.
 * Ordering   Bus.lock protects the lists, the serial numbers and the counts of tries.
 *
 * @module
 */
import { read, write } from '#memory';

import { EBUSY, ENOMEM } from '../base/errno.js';
import { noteBegun, noteEnded } from '../debug/begun.js';
import type { Cpu } from '../machine/cpu.js';
import { failSite, shouldFail } from '../machine/fail.js';
import { lockClass } from '../machine/lock-class.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { printk } from '../machine/printk.js';
import { schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { WAIT_DRIVER } from '../machine/wait-kind.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import { initListHead, listAddTail, listDelInit, listEmpty, listNext } from '../memory/list.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  wakeUpAll,
} from '../sync/wait-queue.js';
import { getDevice, putDevice } from './device-ref.js';
import { Bus, Device, DeviceDriver } from './types.js';

/** A kind of bus. @kernel struct bus_type */
export interface BusOps extends OpsTable {
  /** True if the driver knows such devices; every driver does if there is no such function. */
  readonly match?: (cpu: Cpu, dev: Device, drv: DeviceDriver) => boolean;
}

/** A driver. @kernel struct device_driver */
export interface DriverOps extends OpsTable {
  /** Takes a device: 0, or an error, and then what was managed for the device is undone. Under its lock. */
  readonly probe: (cpu: Cpu, dev: Device) => number;
  /** Lets go of it; what is managed is undone after that. Under the device's lock. */
  readonly remove?: (cpu: Cpu, dev: Device) => void;
}

const BUS_LOCK = lockClass('bus->lock');
const BUS_IDLE = lockClass('bus->idle');
const DRIVER = lockClass('device_driver');
const DRIVER_LOCK = lockClass('driver->devices_lock');
const DRIVER_REGISTER = failSite('driver_register');

/** Makes an empty bus. @kernel bus_register */
export function initBus(cpu: Cpu, bus: Bus, ops: BusOps): void {
  write(cpu, bus, Bus.ops, opsIndex(cpu, ops));
  initSpinlock(cpu, member(bus, Bus.lock), BUS_LOCK);
  initListHead(cpu, member(bus, Bus.devices));
  initListHead(cpu, member(bus, Bus.drivers));
  initWaitQueue(cpu, member(bus, Bus.idle), BUS_IDLE);
}

/** True if the bus says that the two fit. @kernel driver_match_device */
export function driverMatchDevice(cpu: Cpu, drv: DeviceDriver, dev: Device): boolean {
  const bus = read(cpu, drv, DeviceDriver.bus);
  const ops = opsAt(cpu, read(cpu, bus, Bus.ops)) as BusOps;
  return ops.match === undefined || ops.match(cpu, dev, drv);
}

// --- devices ---

/** Puts a device on the bus, last. deviceAdd has taken the reference that deviceDel gives back. */
export function busAddDevice(cpu: Cpu, bus: Bus, dev: Device): void {
  spinLock(cpu, member(bus, Bus.lock));
  write(cpu, dev, Device.bus, bus);
  write(cpu, dev, Device.serial, nextSerial(cpu, bus));
  listAddTail(cpu, member(dev, Device.onBus), member(bus, Bus.devices));
  spinUnlock(cpu, member(bus, Bus.lock));
}

/** Takes a device off its bus. */
export function busRemoveDevice(cpu: Cpu, dev: Device): void {
  const bus = read(cpu, dev, Device.bus);
  spinLock(cpu, member(bus, Bus.lock));
  listDelInit(cpu, member(dev, Device.onBus));
  spinUnlock(cpu, member(bus, Bus.lock));
}

/** The device after `previous` (NULL: the first), with a reference; that to `previous` is given back. Sleeps. */
export function nextDevice(cpu: Cpu, bus: Bus, previous: Device): Device {
  const head = member(bus, Bus.devices);
  const serial = previous === NULL ? 0 : read(cpu, previous, Device.serial);
  let found: Device = NULL;
  spinLock(cpu, member(bus, Bus.lock));
  for (let link = listNext(cpu, head); link !== head; link = listNext(cpu, link)) {
    const dev: Device = containerOf(link, Device.onBus);
    if (read(cpu, dev, Device.serial) <= serial) continue;
    found = getDevice(cpu, dev);
    break;
  }
  spinUnlock(cpu, member(bus, Bus.lock));
  if (previous !== NULL) putDevice(cpu, previous);
  return found;
}

// --- drivers ---

/** Makes a driver of that bus, which is not on it yet. */
export function initDriver(cpu: Cpu, bus: Bus, drv: DeviceDriver, ops: DriverOps): void {
  write(cpu, drv, DeviceDriver.ops, opsIndex(cpu, ops));
  write(cpu, drv, DeviceDriver.lockClass, DRIVER);
  write(cpu, drv, DeviceDriver.bus, bus);
  write(cpu, drv, DeviceDriver.tries, 0);
  initListHead(cpu, member(drv, DeviceDriver.onBus));
  initSpinlock(cpu, member(drv, DeviceDriver.lock), DRIVER_LOCK);
  initListHead(cpu, member(drv, DeviceDriver.devices));
}

/** True if the bus has a driver with these ops; says so. @kernel driver_find */
export function busHasDriver(cpu: Cpu, bus: Bus, ops: DriverOps): boolean {
  spinLock(cpu, member(bus, Bus.lock));
  const isThere = hasDriver(cpu, bus, opsIndex(cpu, ops));
  spinUnlock(cpu, member(bus, Bus.lock));
  if (isThere) sayRegistered(cpu, ops);
  return isThere;
}

function sayRegistered(cpu: Cpu, { opsName }: DriverOps): void {
  printk(cpu, `Error: Driver '${opsName}' is already registered, aborting...`);
}

/** Puts it on the bus: 0, -EBUSY if there is one with these ops, -ENOMEM. @kernel bus_add_driver */
export function busAddDriver(cpu: Cpu, drv: DeviceDriver): number {
  if (shouldFail(cpu, DRIVER_REGISTER)) return -ENOMEM;
  const bus = read(cpu, drv, DeviceDriver.bus);
  const index = read(cpu, drv, DeviceDriver.ops);
  spinLock(cpu, member(bus, Bus.lock));
  const isThere = hasDriver(cpu, bus, index);
  if (!isThere) {
    write(cpu, drv, DeviceDriver.serial, nextSerial(cpu, bus));
    listAddTail(cpu, member(drv, DeviceDriver.onBus), member(bus, Bus.drivers));
  }
  spinUnlock(cpu, member(bus, Bus.lock));
  if (!isThere) return 0;
  sayRegistered(cpu, opsAt(cpu, index) as DriverOps);
  return -EBUSY;
}

/** Bus.lock must be held. */
function hasDriver(cpu: Cpu, bus: Bus, ops: number): boolean {
  const head = member(bus, Bus.drivers);
  for (let link = listNext(cpu, head); link !== head; link = listNext(cpu, link)) {
    const drv: DeviceDriver = containerOf(link, DeviceDriver.onBus);
    if (read(cpu, drv, DeviceDriver.ops) === ops) return true;
  }
  return false;
}

/** Takes a driver off its bus, and waits until nobody tries it on a device (I2). Sleeps. */
export function busRemoveDriver(cpu: Cpu, drv: DeviceDriver): void {
  const bus = read(cpu, drv, DeviceDriver.bus);
  const lock = member(bus, Bus.lock);
  const idle = member(bus, Bus.idle);
  spinLock(cpu, lock);
  listDelInit(cpu, member(drv, DeviceDriver.onBus));
  spinUnlock(cpu, lock);
  const wait = initWait(cpu, WAIT_DRIVER, drv);
  for (;;) {
    prepareToWait(cpu, idle, wait, TASK_UNINTERRUPTIBLE);
    spinLock(cpu, lock);
    const tries = read(cpu, drv, DeviceDriver.tries);
    spinUnlock(cpu, lock);
    if (tries === 0) break;
    schedule(cpu);
  }
  finishWait(cpu, idle, wait);
}

/** The driver after `previous` (NULL: the first), to be tried; `previous` no longer is. */
export function nextDriver(cpu: Cpu, bus: Bus, previous: DeviceDriver): DeviceDriver {
  const head = member(bus, Bus.drivers);
  let found: DeviceDriver = NULL;
  spinLock(cpu, member(bus, Bus.lock));
  const serial = previous === NULL ? 0 : read(cpu, previous, DeviceDriver.serial);
  for (let link = listNext(cpu, head); link !== head; link = listNext(cpu, link)) {
    const drv: DeviceDriver = containerOf(link, DeviceDriver.onBus);
    if (read(cpu, drv, DeviceDriver.serial) <= serial) continue;
    beginTry(cpu, drv);
    found = drv;
    break;
  }
  const isIdle = previous !== NULL && endTry(cpu, previous);
  spinUnlock(cpu, member(bus, Bus.lock));
  if (isIdle) wakeUpAll(cpu, member(bus, Bus.idle));
  return found;
}

/** True if the driver is on the bus: then it is tried, and stays what it is until putDriver. */
export function getDriver(cpu: Cpu, bus: Bus, drv: DeviceDriver): boolean {
  spinLock(cpu, member(bus, Bus.lock));
  const isThere = !listEmpty(cpu, member(drv, DeviceDriver.onBus));
  if (isThere) beginTry(cpu, drv);
  spinUnlock(cpu, member(bus, Bus.lock));
  return isThere;
}

/** A driver that nextDriver or getDriver has returned is no longer tried. */
export function putDriver(cpu: Cpu, bus: Bus, drv: DeviceDriver): void {
  spinLock(cpu, member(bus, Bus.lock));
  const isIdle = endTry(cpu, drv);
  spinUnlock(cpu, member(bus, Bus.lock));
  if (isIdle) wakeUpAll(cpu, member(bus, Bus.idle));
}

/** Bus.lock must be held. */
function beginTry(cpu: Cpu, drv: DeviceDriver): void {
  write(cpu, drv, DeviceDriver.tries, read(cpu, drv, DeviceDriver.tries) + 1);
  noteBegun(cpu, drv);
}

/** True if nobody tries it any more. Bus.lock must be held. */
function endTry(cpu: Cpu, drv: DeviceDriver): boolean {
  const tries = read(cpu, drv, DeviceDriver.tries) - 1;
  write(cpu, drv, DeviceDriver.tries, tries);
  noteEnded(cpu, drv);
  return tries === 0;
}

/** Bus.lock must be held. */
function nextSerial(cpu: Cpu, bus: Bus): number {
  const serial = read(cpu, bus, Bus.serial) + 1;
  write(cpu, bus, Bus.serial, serial);
  return serial;
}
