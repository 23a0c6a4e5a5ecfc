/**
 * The devices of a case: dev0 and dev1 with private memory, dev2 with coherent. What happens to their pages is logged.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import {
  devmemAdd,
  devmemInUse,
  type DevmemObserver,
  devmemOf,
  devmemOwner,
} from '../drivers/devmem/devmem.js';
import { Devmem } from '../drivers/devmem/types.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { type Pfn, PG_DEVICE_COHERENT, PG_DEVICE_PRIVATE } from '../machine/page-alloc.js';
import { element, NULL, type Va } from '../memory/layout.js';
import { MEMORY_DEVICE_COHERENT, MEMORY_DEVICE_PRIVATE } from '../memremap/pagemap.js';
import { FAULT_FLAG_WRITE, VM_FAULT_SIGBUS } from '../mm/fault.js';
import { pageHasFlag } from '../mm/page.js';
import { type MmStruct, VmAreaStruct, VmFault } from '../mm/types.js';
import { armsFailure, logDevice, runDeviceHook } from './recorder.js';
import { type StepInput, textOf } from './step.js';
import { ConformWorld, DEVICES } from './world.js';

/** Pages of each device. */
const DEVICE_PAGES = 4096;

/** What the devices of a case need of the machine. Unit: bytes. */
export const DEVICE_BYTES = DEVICES * DEVICE_PAGES * PAGE_SIZE;

export const DEVICE_TYPES = [
  MEMORY_DEVICE_PRIVATE,
  MEMORY_DEVICE_PRIVATE,
  MEMORY_DEVICE_COHERENT,
] as const;

const observer: DevmemObserver = defineKernelOps({
  opsName: 'conform devmem',
  migrateToRam(cpu: Cpu, devmem: Devmem, fault: VmFault): number {
    const world = read(cpu, devmem, Devmem.data) as ConformWorld;
    const mm = read(cpu, read(cpu, fault, VmFault.vma), VmAreaStruct.mm);
    const va = readAddress(cpu, fault, VmFault.address);
    const isWrite = (read(cpu, fault, VmFault.flags) & FAULT_FLAG_WRITE) !== 0;
    logDevice(cpu, world, 'migrate_to_ram', mm, va, deviceNumber(cpu, devmem), isWrite);
    runDeviceHook(cpu, world);
    return armsFailure(cpu, world) ? VM_FAULT_SIGBUS : 0;
  },
  pageFree(cpu: Cpu, devmem: Devmem, mm: MmStruct, va: Va) {
    const world = read(cpu, devmem, Devmem.data) as ConformWorld;
    logDevice(cpu, world, 'page_free', mm, va, deviceNumber(cpu, devmem), false);
  },
});

/** Its number: 0 for dev0. */
export function deviceNumber(cpu: Cpu, devmem: Devmem): number {
  return devmemOwner(cpu, devmem) - 1;
}

/** The devices of a case. They stay as long as the machine does. Sleeps. */
export function addDevices(cpu: Cpu): Devmem[] {
  return DEVICE_TYPES.map((type, device) => {
    const [offset, pages] = [device * DEVICE_PAGES, DEVICE_PAGES];
    const devmem = devmemAdd(cpu, { type, owner: device + 1, offset, pages, observer });
    if (devmem === NULL) bug(`there is no memory for dev${device}`);
    return devmem;
  });
}

/** What happens to the devices is logged in the case's world from now on. */
export function giveDevices(cpu: Cpu, world: ConformWorld, devices: readonly Devmem[]): void {
  for (const [device, devmem] of devices.entries()) {
    write(cpu, devmem, Devmem.data, world);
    write(cpu, world, element(ConformWorld.devices, device), devmem);
  }
}

/** Pages of devices that nobody has given back. */
export function devicePagesInUse(cpu: Cpu, world: ConformWorld): number {
  let count = 0;
  for (let device = 0; device < DEVICES; device++) {
    const devmem = read(cpu, world, element(ConformWorld.devices, device)) as Devmem;
    if (devmem !== NULL) count += devmemInUse(cpu, devmem);
  }
  return count;
}

/** The name of the device that a frame is of; undefined for the machine's own memory. */
export function deviceNameOf(cpu: Cpu, pfn: Pfn): string | undefined {
  if (!pageHasFlag(cpu, pfn, PG_DEVICE_PRIVATE | PG_DEVICE_COHERENT)) return undefined;
  return `dev${deviceNumber(cpu, devmemOf(cpu, pfn))}`;
}

/** The owners of device memory, by the names of the devices. */
export function ownerOf(step: StepInput, fallback = 'dev0'): number {
  const name = textOf(step, 'owner', fallback);
  return /^dev\d$/.test(name) ? 1 + Number(name[3]) : 0;
}
