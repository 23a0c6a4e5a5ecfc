import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read } from '#memory';

import { EBUSY, ENODEV, ENOMEM } from '../../src/base/errno.js';
import {
  deviceDriverAttach,
  deviceDriverDetach,
  driverRegister,
  driverUnregister,
} from '../../src/device/bind.js';
import { type BusOps, initBus } from '../../src/device/bus.js';
import {
  deviceAdd,
  deviceDel,
  deviceInitialize,
  deviceUnregister,
} from '../../src/device/device.js';
import {
  devGetDrvdata,
  devName,
  devSetDrvdata,
  getDevice,
  putDevice,
} from '../../src/device/device-ref.js';
import { devmAddAction } from '../../src/device/devres.js';
import { Bus, Device, DeviceDriver } from '../../src/device/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { failNth, failSite } from '../../src/machine/fail.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { kernelLog } from '../../src/machine/printk.js';
import { kzalloc } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import {
  bootDeviceCpu,
  deviceType,
  driverOps,
  newDeviceWorld,
  noteAction,
  otherDriverOps,
  script,
  takeEvents,
} from '../support/devices.js';

const boundTo = (cpu: Cpu, dev: Device): DeviceDriver => read(cpu, dev, Device.driver);

test('a device that comes finds its driver; unbinding removes first and then undoes', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  script.probe = (probing, device) => {
    devSetDrvdata(probing, device, 77);
    devmAddAction(probing, device, noteAction, 1);
    return devmAddAction(probing, device, noteAction, 2);
  };
  driverRegister(cpu, drv, bus, driverOps);
  assert.deepEqual(takeEvents(), []);
  assert.equal(deviceAdd(cpu, dev, bus), 0);
  assert.deepEqual(takeEvents(), ['probe']);
  assert.equal(boundTo(cpu, dev), drv);
  assert.equal(devGetDrvdata(cpu, dev), 77);
  assert.equal(deviceDriverDetach(cpu, drv, dev), 0);
  assert.deepEqual(takeEvents(), ['remove', 'action 2', 'action 1']);
  assert.equal(boundTo(cpu, dev), 0);
  assert.equal(devGetDrvdata(cpu, dev), 0);

  assert.equal(deviceDriverAttach(cpu, drv, dev), 0, 'and it can be bound again');
  assert.deepEqual(takeEvents(), ['probe']);
  deviceUnregister(cpu, dev);
  assert.deepEqual(takeEvents(), ['remove', 'action 2', 'action 1', 'release']);
});

test('a driver that comes finds its devices, and goes with all of them let go of, newest first', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  const second = kzalloc(cpu, Device);
  deviceInitialize(cpu, second, deviceType, 2);
  script.probe = (probing, device) =>
    devmAddAction(probing, device, noteAction, read(probing, device, Device.id));
  deviceAdd(cpu, dev, bus);
  deviceAdd(cpu, second, bus);
  driverRegister(cpu, drv, bus, driverOps);
  assert.deepEqual(takeEvents(), ['probe', 'probe']);
  driverUnregister(cpu, drv);
  assert.deepEqual(takeEvents(), ['remove', 'action 2', 'remove', 'action 1']);
  assert.equal(boundTo(cpu, dev), 0);
  driverRegister(cpu, drv, bus, driverOps);
  assert.deepEqual(takeEvents(), ['probe', 'probe']);
});

test('a probe that fails is undone without remove, and the next driver has its chance', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  const other = kzalloc(cpu, DeviceDriver);
  script.probe = (probing, device) => {
    devmAddAction(probing, device, noteAction, 5);
    devSetDrvdata(probing, device, 1);
    return -ENOMEM;
  };
  driverRegister(cpu, drv, bus, driverOps);
  driverRegister(cpu, other, bus, otherDriverOps);
  assert.equal(deviceAdd(cpu, dev, bus), 0);
  assert.deepEqual(takeEvents(), ['probe', 'action 5', 'other probe']);
  assert.equal(boundTo(cpu, dev), other);
  assert.equal(devGetDrvdata(cpu, dev), 0);
  assert.equal(deviceDriverAttach(cpu, drv, dev), -EBUSY);
  assert.equal(deviceDriverDetach(cpu, drv, dev), -ENODEV);
  assert.equal(deviceDriverDetach(cpu, other, dev), 0);
  assert.equal(deviceDriverAttach(cpu, drv, dev), -ENOMEM, 'who binds by hand sees why it failed');
});

test('a device with things managed for it is not bound', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  driverRegister(cpu, drv, bus, driverOps);
  devmAddAction(cpu, dev, noteAction, 1);
  deviceAdd(cpu, dev, bus);
  assert.equal(deviceDriverAttach(cpu, drv, dev), -EBUSY);
  assert.deepEqual(takeEvents(), []);
  assert.match(kernelLog(cpu)[0] ?? '', /^thing\.1: Resources present before probing$/);
  deviceUnregister(cpu, dev);
  assert.deepEqual(takeEvents(), ['action 1', 'release'], 'they go with the device itself');
});

/** Fits devices with an even number. */
export const evenBus: BusOps = defineOps({
  opsName: 'even bus',
  match: (cpu: Cpu, dev: Device) => read(cpu, dev, Device.id) % 2 === 0,
});

test('what the bus does not match is not probed', () => {
  const cpu = bootDeviceCpu({ evenBus });
  const { dev, drv } = newDeviceWorld(cpu);
  const bus = kzalloc(cpu, Bus);
  initBus(cpu, bus, evenBus);
  driverRegister(cpu, drv, bus, driverOps);
  deviceAdd(cpu, dev, bus);
  assert.equal(deviceDriverAttach(cpu, drv, dev), -ENODEV);
  assert.deepEqual(takeEvents(), []);
});

test('a driver that is not on its bus is not bound by hand (I3)', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  deviceAdd(cpu, dev, bus);
  driverRegister(cpu, drv, bus, driverOps);
  driverUnregister(cpu, drv);
  takeEvents();
  assert.equal(deviceDriverAttach(cpu, drv, dev), -ENODEV);
  assert.deepEqual(takeEvents(), []);
});

test('the last reference releases the device, once it is off its bus', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  driverRegister(cpu, drv, bus, driverOps);
  deviceAdd(cpu, dev, bus);
  getDevice(cpu, dev);
  deviceUnregister(cpu, dev);
  assert.deepEqual(takeEvents(), ['probe', 'remove']);
  assert.equal(deviceDriverAttach(cpu, drv, dev), -ENODEV, 'it is dead');
  putDevice(cpu, dev);
  assert.deepEqual(takeEvents(), ['release']);
});

export const nakedType = defineOps({ opsName: 'naked' });

test('a device that cannot be released is warned of', () => {
  const cpu = bootDeviceCpu({ nakedType });
  const dev = kzalloc(cpu, Device);
  deviceInitialize(cpu, dev, nakedType, 9);
  assert.equal(devName(cpu, dev), 'naked.9');
  putDevice(cpu, dev);
  assert.match(warningTexts(cpu).join(), /'naked\.9' does not have a release\(\) function/);
});

test('registration can fail, and then nothing has happened', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  failNth(cpu, 1, failSite('driver_register'));
  assert.equal(driverRegister(cpu, drv, bus, driverOps), -ENOMEM);
  failNth(cpu, 1, failSite('device_add'));
  assert.equal(deviceAdd(cpu, dev, bus), -ENOMEM);
  assert.deepEqual(takeEvents(), []);
  putDevice(cpu, dev);
  assert.deepEqual(takeEvents(), ['release']);

  assert.equal(driverRegister(cpu, drv, bus, driverOps), 0);
  const again = kzalloc(cpu, DeviceDriver);
  assert.equal(driverRegister(cpu, again, bus, driverOps), -EBUSY);
  assert.deepEqual(kernelLog(cpu), ["Error: Driver 'scripted' is already registered, aborting..."]);
});

test('a probe may add a device to the bus that it is on', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  const child = kzalloc(cpu, Device);
  deviceInitialize(cpu, child, deviceType, 2);
  script.probe = (probing, device) => (device === dev ? deviceAdd(probing, child, bus) : 0);
  deviceAdd(cpu, dev, bus);
  driverRegister(cpu, drv, bus, driverOps);
  assert.deepEqual(takeEvents(), ['probe', 'probe']);
  assert.equal(boundTo(cpu, child), drv);
  deviceDel(cpu, child);
  assert.deepEqual(takeEvents(), ['remove']);
});
