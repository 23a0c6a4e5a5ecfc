/**
 * Programs in which CPUs bind and unbind the same devices, load and unload the same modules, and request the
 * same physical addresses.
 *
 * @module
 */
import { cmpxchg, fetchAdd, read, readAddress, readOnce, write, writeOnce } from '#memory';

import { EEXIST, EWOULDBLOCK } from '../../src/base/errno.js';
import { driverRegister, driverUnregister } from '../../src/device/bind.js';
import { bootDevices } from '../../src/device/boot.js';
import { type BusOps, type DriverOps, initBus } from '../../src/device/bus.js';
import { deviceAdd, deviceInitialize, deviceUnregister } from '../../src/device/device.js';
import type { DeviceType } from '../../src/device/device-ref.js';
import { type DevmActionOps, devmAddAction } from '../../src/device/devres.js';
import {
  defineModule,
  findModuleGet,
  loadModule,
  moduleData,
  modulePut,
  setModuleData,
  unloadModule,
} from '../../src/device/module.js';
import { freeRegion, requestFreeMemRegion } from '../../src/device/region.js';
import { Bus, Device, DeviceDriver, Resource } from '../../src/device/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { MACHINE, Machine } from '../../src/machine/types.js';
import {
  cacheline,
  containerOf,
  element,
  member,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';

const REGION_BYTES = 128 << 20;
const REGIONS = 32;

/** A device with what its driver counts. */
export const Thing = struct('test_thing', {
  dev: Device,
  line1: cacheline,
  bound: word, // probes less removes; atomic
  managed: word, // actions to run; atomic
  faults: word, // atomic
});
export type Thing = Ptr<'test_thing'>;

export const DeviceArena = struct('device_arena', {
  bus: Bus,
  drv: DeviceDriver,
  line1: cacheline,
  ready: word, // CPUs that have come; atomic
  done: word, // CPUs that have left; atomic
  busy: word, // devices that were bound, unloads of a module in use, …: a race was met; atomic
  twice: word, // loads of a module that is there; atomic
  owners: words(REGIONS), // of each part of physical space, who has it; atomic
});
export type DeviceArena = Ptr<'device_arena'>;

const ROUNDS = 300;
const ROUNDS_MAX = 200_000;

export const thingType: DeviceType = defineOps({
  opsName: 'test thing',
  release(cpu: Cpu, dev: Device) {
    const thing: Thing = containerOf(dev, Thing.dev);
    if (readOnce(cpu, thing, Thing.bound) !== 0) fetchAdd(cpu, thing, Thing.faults, 1);
    kfree(cpu, Thing, thing);
  },
});

export const thingAction: DevmActionOps = defineOps({
  opsName: 'test thing action',
  action(cpu: Cpu, data: number) {
    const thing = data as Thing;
    // remove came first, and the other action is there as long as this one is newer
    if (readOnce(cpu, thing, Thing.bound) !== 0) fetchAdd(cpu, thing, Thing.faults, 1);
    fetchAdd(cpu, thing, Thing.managed, -1);
  },
});

export const thingDriver: DriverOps = defineOps({
  opsName: 'test thing driver',
  probe(cpu: Cpu, dev: Device) {
    const thing: Thing = containerOf(dev, Thing.dev);
    if (fetchAdd(cpu, thing, Thing.bound, 1) !== 0) fetchAdd(cpu, thing, Thing.faults, 1);
    if (readOnce(cpu, thing, Thing.managed) !== 0) fetchAdd(cpu, thing, Thing.faults, 1);
    for (let i = 0; i < 2; i++) {
      fetchAdd(cpu, thing, Thing.managed, 1);
      devmAddAction(cpu, dev, thingAction, thing);
    }
    return 0;
  },
  remove(cpu: Cpu, dev: Device) {
    const thing: Thing = containerOf(dev, Thing.dev);
    if (fetchAdd(cpu, thing, Thing.bound, -1) !== 1) fetchAdd(cpu, thing, Thing.faults, 1);
    if (readOnce(cpu, thing, Thing.managed) !== 2) fetchAdd(cpu, thing, Thing.faults, 1);
  },
});

export const thingBus: BusOps = defineOps({ opsName: 'test thing bus' });

/** A bus with devices, none of them bound, and a driver to be registered. */
export function deviceArena(cpu: Cpu): DeviceArena {
  bootDevices(cpu);
  const arena = kzalloc(cpu, DeviceArena);
  initBus(cpu, member(arena, DeviceArena.bus), thingBus);
  return arena;
}

function newThing(cpu: Cpu, arena: DeviceArena): Thing {
  const thing = kzalloc(cpu, Thing);
  deviceInitialize(cpu, member(thing, Thing.dev), thingType, cpu.id);
  deviceAdd(cpu, member(thing, Thing.dev), member(arena, DeviceArena.bus));
  return thing;
}

function gate(cpu: Cpu, arena: DeviceArena): void {
  fetchAdd(cpu, arena, DeviceArena.ready, 1);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let i = 0; readOnce(cpu, arena, DeviceArena.ready) < cpus; i++) cpuRelax(cpu, i);
}

/** Registers the driver and takes it off again, until all others have done. Returns how often. */
export function driverComesAndGoes(cpu: Cpu, arena: DeviceArena): number {
  const drv = member(arena, DeviceArena.drv);
  const others = read(cpu, MACHINE, Machine.cpus) - 1;
  gate(cpu, arena);
  let rounds = 0;
  while (readOnce(cpu, arena, DeviceArena.done) < others) {
    if (driverRegister(cpu, drv, member(arena, DeviceArena.bus), thingDriver) !== 0) return -1;
    driverUnregister(cpu, drv);
    rounds++;
  }
  return rounds;
}

/** Makes a device and takes it off again. Returns how many were bound when they went. */
export function devicesComeAndGo(cpu: Cpu, arena: DeviceArena): number {
  gate(cpu, arena);
  let bound = 0;
  const hasMet = (): boolean => readOnce(cpu, arena, DeviceArena.busy) > 0;
  for (let round = 0; round < ROUNDS || (round < ROUNDS_MAX && !hasMet()); round++) {
    const thing = newThing(cpu, arena);
    if (readOnce(cpu, thing, Thing.bound) !== 0) {
      bound++;
      fetchAdd(cpu, arena, DeviceArena.busy, 1);
    }
    if (readOnce(cpu, thing, Thing.faults) !== 0) return -1;
    deviceUnregister(cpu, member(thing, Thing.dev));
  }
  fetchAdd(cpu, arena, DeviceArena.done, 1);
  return bound;
}

// --- modules ---

const LOADS = 500;
const LOADS_MAX = 200_000;
const Variables = struct('test_module_variables', { magic: word, users: word });
type Variables = Ptr<'test_module_variables'>;
const MAGIC = 0x77;

export const testModule = defineModule({
  name: 'test_module',
  license: 'GPL',
  init(cpu, module) {
    const variables = kzalloc(cpu, Variables);
    write(cpu, variables, Variables.magic, MAGIC);
    setModuleData(cpu, module, variables);
    return 0;
  },
  exit(cpu, module) {
    const variables = moduleData(cpu, module) as Variables;
    write(cpu, variables, Variables.magic, 0);
    kfree(cpu, Variables, variables);
  },
});

/** Uses the module as long as it is there; returns 1 if it was used and gone. */
function useModule(cpu: Cpu): number {
  const module = findModuleGet(cpu, testModule);
  if (module === 0) return 0;
  const variables = moduleData(cpu, module) as Variables;
  let faults = 0;
  for (let i = 0; i < 20; i++) {
    if (readOnce(cpu, variables, Variables.magic) !== MAGIC) faults = 1;
    cpuRelax(cpu, i);
  }
  modulePut(cpu, module);
  return faults;
}

/** Loads, uses and unloads, as do all others. Returns how often a module was used that had gone. */
export function fightForModule(cpu: Cpu, arena: DeviceArena): number {
  gate(cpu, arena);
  let faults = 0;
  const hasRaced = (): boolean =>
    readOnce(cpu, arena, DeviceArena.busy) > 0 && readOnce(cpu, arena, DeviceArena.twice) > 0;
  for (let i = 0; i < LOADS || (i < LOADS_MAX && !hasRaced()); i++) {
    if (loadModule(cpu, testModule) === -EEXIST) fetchAdd(cpu, arena, DeviceArena.twice, 1);
    faults += useModule(cpu);
    if (unloadModule(cpu, testModule) === -EWOULDBLOCK) fetchAdd(cpu, arena, DeviceArena.busy, 1);
  }
  return faults;
}

// --- physical addresses ---

const REQUESTS = 1000;
const REQUESTS_MAX = 200_000;

/** Requests and frees ranges. Returns how many of them somebody else had as well. */
export function fightForRegions(cpu: Cpu, arena: DeviceArena): number {
  gate(cpu, arena);
  let faults = 0;
  const hasMet = (): boolean => readOnce(cpu, arena, DeviceArena.busy) > 0;
  for (let i = 0; i < REQUESTS || (i < REQUESTS_MAX && !hasMet()); i++) {
    const region = requestFreeMemRegion(cpu, REGION_BYTES);
    if (region < 0) return -1;
    const part = readAddress(cpu, region, Resource.start) / REGION_BYTES;
    const owner = element(DeviceArena.owners, part);
    if (cmpxchg(cpu, arena, owner, 0, cpu.id + 1) !== 0) faults++;
    // whoever got another part than the highest has met somebody who has that
    if (part < REGIONS - 1) fetchAdd(cpu, arena, DeviceArena.busy, 1);
    writeOnce(cpu, arena, owner, 0);
    freeRegion(cpu, region);
  }
  return faults;
}
