/**
 * A machine with the device layer, and devices and drivers that write down what happens to them.
 *
 * @module
 */
import { bootDevices } from '../../src/device/boot.js';
import { type BusOps, type DriverOps, initBus } from '../../src/device/bus.js';
import { deviceInitialize } from '../../src/device/device.js';
import type { DeviceType } from '../../src/device/device-ref.js';
import type { DevmActionOps } from '../../src/device/devres.js';
import type { Era } from '../../src/device/exports.js';
import { Bus, Device, DeviceDriver } from '../../src/device/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps, type OpsTable, registerOps } from '../../src/machine/ops-table.js';
import { kzalloc } from '../../src/machine/slab.js';
import { bootCpu } from './machine.js';

/** Names of what happened, in order; each test empties it. */
export const events: string[] = [];

/** Takes the events so far. */
export const takeEvents = (): string[] => events.splice(0);

export const noteAction: DevmActionOps = defineOps({
  opsName: 'note',
  action(_cpu: Cpu, data: number) {
    events.push(`action ${data}`);
  },
});

export const deviceType: DeviceType = defineOps({
  opsName: 'thing',
  release(_cpu: Cpu, _dev: Device) {
    events.push('release');
  },
});

export const busOps: BusOps = defineOps({ opsName: 'test bus' });

/** What the driver below does in probe; a test sets it. */
export const script = { probe: (_cpu: Cpu, _dev: Device): number => 0 };

export const driverOps: DriverOps = defineOps({
  opsName: 'scripted',
  probe(cpu: Cpu, dev: Device) {
    events.push('probe');
    return script.probe(cpu, dev);
  },
  remove(_cpu: Cpu, _dev: Device) {
    events.push('remove');
  },
});

export const otherDriverOps: DriverOps = defineOps({
  opsName: 'other',
  probe(_cpu: Cpu, _dev: Device) {
    events.push('other probe');
    return 0;
  },
});

/** One CPU of a machine with 256 KiB and the device layer. `ops` come on top of those of this file. */
export function bootDeviceCpu(
  ops: Readonly<Record<string, OpsTable>> = {},
  ramBytes = 256 * 1024,
  era: Era = '6.12',
): Cpu {
  const cpu = bootCpu(ramBytes);
  registerOps(cpu, [{ noteAction, deviceType, busOps, driverOps, otherDriverOps, ...ops }]);
  bootDevices(cpu, era);
  events.length = 0;
  script.probe = () => 0;
  return cpu;
}

export interface DeviceWorld {
  readonly bus: Bus;
  readonly dev: Device;
  readonly drv: DeviceDriver;
}

/** A bus, a device that is not on it, and a driver that is not registered. */
export function newDeviceWorld(cpu: Cpu): DeviceWorld {
  const bus = kzalloc(cpu, Bus);
  const dev = kzalloc(cpu, Device);
  initBus(cpu, bus, busOps);
  deviceInitialize(cpu, dev, deviceType, 1);
  return { bus, dev, drv: kzalloc(cpu, DeviceDriver) };
}
