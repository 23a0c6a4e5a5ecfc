/**
 * Devices and drivers that come and go at once, and what is managed for them.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';

import { bug } from '../../base/bug.js';
import {
  deviceDriverAttach,
  deviceDriverDetach,
  driverRegister,
  driverUnregister,
} from '../../device/bind.js';
import { type BusOps, type DriverOps, initBus } from '../../device/bus.js';
import { deviceAdd, deviceInitialize, deviceUnregister } from '../../device/device.js';
import {
  devGetDrvdata,
  type DeviceType,
  devSetDrvdata,
  getDevice,
  putDevice,
} from '../../device/device-ref.js';
import {
  type DevmActionOps,
  devmAddAction,
  devmKzalloc,
  devmReleaseAction,
  devresReleaseAll,
} from '../../device/devres.js';
import { Bus, Device, DeviceDriver } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import { warningCount } from '../../machine/warn.js';
import {
  cacheline,
  containerOf,
  member,
  type Ptr,
  struct,
  word,
  words,
} from '../../memory/layout.js';
import { defineProgram, type Outcome, task } from '../program.js';

const ACTIONS = 3;

/** What an action knows. */
const Counter = struct('explored_counter', {
  ran: word, // how often it has; atomic
  newer: word, // the action that must have run before it; NULL = none
});
type Counter = Ptr<'explored_counter'>;
const COUNTER_WORDS = Counter.words;

const World = struct('devices_world', {
  bus: Bus,
  dev: Device,
  drv: DeviceDriver,
  line1: cacheline,
  counters: words(ACTIONS * COUNTER_WORDS),
  probes: word, // atomic, as are those below
  removes: word,
  releases: word,
});
type World = Ptr<'devices_world'>;

/** What the driver keeps with the device. */
const DriverState = struct('explored_driver_state', { magic: word });

const MAGIC = 0x1234;

const counterOf = (world: number, index: number): Counter =>
  (world + World.counters + index * COUNTER_WORDS) as Counter;

export const countAction: DevmActionOps = defineOps({
  opsName: 'explored action',
  action(cpu: Cpu, data: number) {
    const counter = data as Counter;
    if (fetchAdd(cpu, counter, Counter.ran, 1) !== 0) bug('an action has run twice (I1)');
    const newer = read(cpu, counter, Counter.newer) as Counter;
    if (newer !== 0 && readOnce(cpu, newer, Counter.ran) === 0)
      bug('an older action ran first (I2)');
  },
});

export const exploredDriver: DriverOps = defineOps({
  opsName: 'explored driver',
  probe(cpu: Cpu, dev: Device) {
    const world: World = containerOf(dev, World.dev);
    const before = fetchAdd(cpu, world, World.probes, 1);
    if (before !== readOnce(cpu, world, World.removes)) bug('probed while it is bound (I1)');
    const state = devmKzalloc(cpu, dev, DriverState);
    write(cpu, state, DriverState.magic, MAGIC);
    devSetDrvdata(cpu, dev, state);
    return 0;
  },
  remove(cpu: Cpu, dev: Device) {
    const world: World = containerOf(dev, World.dev);
    const state = devGetDrvdata(cpu, dev) as Ptr<'explored_driver_state'>;
    if (read(cpu, state, DriverState.magic) !== MAGIC) bug('what probe left is gone (I2)');
    fetchAdd(cpu, world, World.removes, 1);
  },
});

export const exploredDevice: DeviceType = defineOps({
  opsName: 'explored device',
  release(cpu: Cpu, dev: Device) {
    fetchAdd(cpu, containerOf(dev, World.dev), World.releases, 1);
  },
});

export const exploredBus: BusOps = defineOps({ opsName: 'explored bus' });

// --- worlds ---

/** A bus, a device that is not on it, and a driver that is not registered. */
function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initBus(cpu, member(world, World.bus), exploredBus);
  deviceInitialize(cpu, member(world, World.dev), exploredDevice, 1);
  return world;
}

function setupActions(cpu: Cpu): number {
  const world = setup(cpu) as World;
  for (let i = 0; i < ACTIONS; i++) {
    devmAddAction(cpu, member(world, World.dev), countAction, counterOf(world, i));
  }
  // the one in the middle may be run at any time
  write(cpu, counterOf(world, 0), Counter.newer, counterOf(world, ACTIONS - 1));
  return world;
}

function setupBound(cpu: Cpu): number {
  const world = setup(cpu);
  addDevice(cpu, world);
  registerDriver(cpu, world);
  return world;
}

// --- what tasks do ---

function addDevice(cpu: Cpu, at: number): void {
  const world = at as World;
  if (deviceAdd(cpu, member(world, World.dev), member(world, World.bus)) !== 0) bug('not added');
}

function registerDriver(cpu: Cpu, at: number): void {
  const world = at as World;
  const bus = member(world, World.bus);
  if (driverRegister(cpu, member(world, World.drv), bus, exploredDriver) !== 0) {
    bug('not registered');
  }
}

function unregisterDriver(cpu: Cpu, at: number): void {
  driverUnregister(cpu, member(at as World, World.drv));
}

/** Unbinds and binds by hand; whoever does so has looked the device up, and holds a reference. */
function rebind(cpu: Cpu, at: number): void {
  const world = at as World;
  const dev = member(world, World.dev);
  deviceDriverDetach(cpu, member(world, World.drv), dev);
  deviceDriverAttach(cpu, member(world, World.drv), dev);
  putDevice(cpu, dev);
}

function setupLookedUp(cpu: Cpu): number {
  const world = setupBound(cpu) as World;
  getDevice(cpu, member(world, World.dev));
  return world;
}

function unregisterDevice(cpu: Cpu, at: number): void {
  deviceUnregister(cpu, member(at as World, World.dev));
}

/** The action in the middle. */
function releaseOne(cpu: Cpu, at: number): void {
  const world = at as World;
  devmReleaseAction(cpu, member(world, World.dev), countAction, counterOf(world, 1));
}

function releaseAll(cpu: Cpu, at: number): void {
  devresReleaseAll(cpu, member(at as World, World.dev));
}

// --- what must be true at the end ---

function checkActions(cpu: Cpu, at: number): string | undefined {
  for (let i = 0; i < ACTIONS; i++) {
    const ran = read(cpu, counterOf(at, i), Counter.ran);
    if (ran !== 1) return `action ${i} has run ${ran} times (I1)`;
  }
  return undefined;
}

const isBound = (cpu: Cpu, world: World): boolean =>
  read(cpu, member(world, World.dev), Device.driver) !== 0;

function checkBound(cpu: Cpu, at: number): string | undefined {
  if (!isBound(cpu, at as World)) return 'the device and its driver have missed each other (I2)';
  const probes = read(cpu, at as World, World.probes);
  return probes === 1 ? undefined : `${probes} probes`;
}

function checkGone(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  if (isBound(cpu, world)) return 'the device is bound, and should not be';
  const probes = read(cpu, world, World.probes);
  const removes = read(cpu, world, World.removes);
  return probes === removes ? undefined : `${probes} probes and ${removes} removes (I1)`;
}

function checkReleased(cpu: Cpu, at: number): string | undefined {
  const releases = read(cpu, at as World, World.releases);
  if (releases !== 1) return `the device was released ${releases} times`;
  return checkGone(cpu, at);
}

const probedTimes = (...counts: readonly number[]): readonly Outcome[] =>
  counts.map((count) => ({
    name: `probed ${count} times`,
    grade: 'ACCEPTABLE',
    description: count === 1 ? 'it went first' : 'it was bound again before it went',
  }));

const common = {
  ops: { countAction, exploredDriver, exploredDevice, exploredBus },
  ramBytes: 64 * 4096,
  world: World,
} as const;

export const DEVICE_PROGRAMS = [
  defineProgram({
    ...common,
    name: 'devres',
    title: 'an action is run by hand while all of them are undone',
    tasks: [task('release one', releaseOne), task('release all', releaseAll)],
    setup: setupActions,
    check: checkActions,
    observe: (cpu) => (warningCount(cpu) === 0 ? 'in time' : 'too late'),
    outcomes: [
      { name: 'in time', grade: 'ACCEPTABLE', description: 'the action was still to run' },
      { name: 'too late', grade: 'ACCEPTABLE', description: 'it was not: that is warned of' },
    ],
  }),
  defineProgram({
    ...common,
    name: 'bind-race',
    title: 'a device and its driver come at once',
    tasks: [task('device', addDevice), task('driver', registerDriver)],
    setup,
    check: checkBound,
  }),
  defineProgram({
    ...common,
    name: 'unbind-race',
    title: 'a device goes while somebody unbinds and binds it by hand',
    tasks: [task('device', unregisterDevice), task('by hand', rebind)],
    setup: setupLookedUp,
    check: checkReleased,
    observe: (cpu, at) => `probed ${read(cpu, at as World, World.probes)} times`,
    outcomes: probedTimes(1, 2),
  }),
  defineProgram({
    ...common,
    name: 'bind-unregister',
    title: 'a driver goes while somebody unbinds its device and binds it by hand',
    tasks: [task('driver', unregisterDriver), task('by hand', rebind)],
    setup: setupLookedUp,
    check: checkGone,
    observe: (cpu, at) => `probed ${read(cpu, at as World, World.probes)} times`,
    outcomes: probedTimes(1, 2),
  }),
  defineProgram({
    ...common,
    name: 'driver-goes',
    title: 'a device comes while its driver goes',
    tasks: [task('device', addDevice), task('driver', unregisterDriver)],
    setup(cpu) {
      const world = setup(cpu);
      registerDriver(cpu, world);
      return world;
    },
    check: checkGone,
    observe: (cpu, at) => `probed ${read(cpu, at as World, World.probes)} times`,
    outcomes: [
      { name: 'probed 0 times', grade: 'ACCEPTABLE', description: 'the driver was gone' },
      { name: 'probed 1 times', grade: 'ACCEPTABLE', description: 'and it let go again' },
    ],
  }),
];
