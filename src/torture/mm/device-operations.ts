/**
 * Devices: bound to address spaces and unbound, used, and their faults served.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { WORD_BYTES } from '../../base/units.js';
import {
  closeContext,
  createSvmDevice,
  destroySvmDevice,
  getContext,
  openContext,
  putContext,
} from '../../drivers/svm/device.js';
import { type SvmDriver, svmDriver } from '../../drivers/svm/driver.js';
import { attachEngine, ENGINE_ADD } from '../../drivers/svm/engine.js';
import {
  createFaultService,
  destroyFaultService,
  type FaultService,
  serveBatch,
} from '../../drivers/svm/fault-service.js';
import { svmDriverOver } from '../../drivers/svm/mirror-driver.js';
import { SvmContext, type SvmDevice } from '../../drivers/svm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { frameWord } from '../../machine/frame.js';
import { frameOf } from '../../machine/page-alloc.js';
import { element, member as memberOf, NULL } from '../../memory/layout.js';
import { fileGetPage } from '../../mm/file.js';
import { putPage } from '../../mm/page.js';
import { spinLock, spinUnlock } from '../../sync/spinlock.js';
import type { TortureConfig, TortureMember } from '../target.js';
import { lookSomewhere, storeSomewhere } from './advice-operations.js';
import { ADDED_WORD, engineWord, type Way } from './content.js';
import { armFailure, disarmFailure, type Operation, type Stage } from './stage.js';
import {
  DEVICES_MAX,
  DRIVERS_MAX,
  pageVa,
  SHARED,
  somePlace,
  spaceAt,
  SPACES,
  World,
} from './world.js';

/** Pages that a serviced fault looks at. */
const WINDOW_PAGES = 8;

/**
 * The drivers that every device is tried with: the user's alone, or ours over each protocol that is sound. Not over
 * list-tree: with a reaper it needs another form of the list (protocols/list-tree.ts).
 */
function driversOf(config: TortureConfig): readonly SvmDriver[] {
  if (config.driver !== undefined) return [config.driver];
  const over = ['interval', 'two-pass'].map((name) => svmDriverOver(name));
  return [svmDriver, ...over];
}

/** How many devices a run has. */
export function deviceCount(config: TortureConfig): number {
  return Math.min(config.devices, DEVICES_MAX);
}

/** On the boot CPU. */
export function makeDevices(cpu: Cpu, world: World, config: TortureConfig): void {
  const drivers = driversOf(config);
  const devices = deviceCount(config);
  write(cpu, world, World.devices, devices);
  write(cpu, world, World.drivers, drivers.length);
  for (let id = 0; id < devices; id++) {
    drivers.forEach((driver, i) => {
      const device = createSvmDevice(cpu, id, driver, WINDOW_PAGES);
      if (device === NULL) bug('there is no memory for a device');
      write(cpu, world, element(World.svmDevices, id * DRIVERS_MAX + i), device);
    });
  }
}

/** On the boot CPU, when nobody uses them. Closes what is open. */
export function endDevices(cpu: Cpu, world: World): void {
  for (let slot = 0; slot < DEVICES_MAX * SPACES; slot++) {
    const context = takeContext(cpu, world, slot);
    if (context !== NULL) closeContext(cpu, context);
  }
  for (let id = 0; id < read(cpu, world, World.devices); id++) {
    for (let i = 0; i < read(cpu, world, World.drivers); i++) {
      destroySvmDevice(cpu, deviceAt(cpu, world, id, i));
    }
  }
}

function deviceAt(cpu: Cpu, world: World, id: number, driver: number): SvmDevice {
  return read(cpu, world, element(World.svmDevices, id * DRIVERS_MAX + driver)) as SvmDevice;
}

// --- contexts ---

/** Binds a device, with one of its drivers, to the address space, unless it has been. */
function open(cpu: Cpu, { world, member, at }: Stage): boolean {
  const devices = read(cpu, world, World.devices);
  if (devices === 0) return false;
  const id = member.random(devices);
  const slot = id * SPACES + at.index;
  const device = deviceAt(cpu, world, id, member.random(read(cpu, world, World.drivers)));
  if (readOnce(cpu, world, element(World.contexts, slot)) !== 0) return false;
  const context = openContext(cpu, device, at.mm);
  if (context === NULL) return false;
  const lock = memberOf(world, World.lock);
  spinLock(cpu, lock);
  const isFree = readOnce(cpu, world, element(World.contexts, slot)) === 0;
  if (isFree) {
    writeOnce(cpu, world, element(World.contexts, slot), context);
    write(cpu, world, element(World.contextLives, slot), at.life);
  }
  spinUnlock(cpu, lock);
  if (!isFree) closeContext(cpu, context);
  return true;
}

/** Unbinds some device, though engines may be using it, and faults of it be under way. */
function close(cpu: Cpu, { world, member }: Stage): boolean {
  const slot = member.random(read(cpu, world, World.devices) * SPACES || 1);
  const context = takeContext(cpu, world, slot);
  if (context === NULL) return false;
  getContext(cpu, context); // somebody keeps it
  closeContext(cpu, context);
  member.noise(cpu);
  putContext(cpu, context);
  return true;
}

function takeContext(cpu: Cpu, world: World, slot: number): SvmContext {
  const lock = memberOf(world, World.lock);
  spinLock(cpu, lock);
  const context = readOnce(cpu, world, element(World.contexts, slot)) as SvmContext;
  writeOnce(cpu, world, element(World.contexts, slot), 0);
  spinUnlock(cpu, lock);
  return context;
}

/** A context of the device, with a reference, and what it leads to; undefined if there is none there. */
export function borrowContext(
  cpu: Cpu,
  world: World,
  member: TortureMember,
  id: number,
  index: number,
): Way | undefined {
  const slot = id * SPACES + index;
  const lock = memberOf(world, World.lock);
  spinLock(cpu, lock);
  const context = readOnce(cpu, world, element(World.contexts, slot)) as SvmContext;
  const life = read(cpu, world, element(World.contextLives, slot));
  if (context !== NULL) getContext(cpu, context);
  spinUnlock(cpu, lock);
  if (context === NULL) return undefined;
  const mm = read(cpu, context, SvmContext.mm);
  return { world, member, index, space: spaceAt(world, index), life, mm, context };
}

// --- engines ---

/** What an engine does to the memory of a context. */
export interface DeviceOperation {
  readonly name: string;
  readonly run: (cpu: Cpu, way: Way) => boolean;
}

/** Adds to a word of a shared page, atomically, and writes down that it did. */
function add(cpu: Cpu, way: Way): boolean {
  const page = way.member.random(SHARED.pages);
  const va = pageVa(SHARED.first + page) + ADDED_WORD * WORD_BYTES;
  if (engineWord(cpu, way, va, ENGINE_ADD, 1) !== 0) return false;
  fetchAdd(cpu, way.world, element(World.added, page), 1);
  return true;
}

export const DEVICE_OPERATIONS: readonly DeviceOperation[] = [
  { name: 'device_load', run: lookSomewhere },
  { name: 'device_store', run: storeSomewhere },
  { name: 'device_add', run: add },
];

/** An engine goes where a context of its device is; false if there is none there. */
export function useDevice(
  cpu: Cpu,
  world: World,
  member: TortureMember,
  id: number,
  operation: DeviceOperation,
): boolean {
  const way = borrowContext(cpu, world, member, id, somePlace(member));
  if (way === undefined) return false;
  attachEngine(cpu, way.context);
  const done = operation.run(cpu, way);
  putContext(cpu, way.context);
  return done;
}

/** What all additions of devices have come to. Nobody may be running. */
export function checkAdditions(cpu: Cpu, world: World): void {
  const file = read(cpu, world, World.file);
  for (let page = 0; page < SHARED.pages; page++) {
    const added = readOnce(cpu, world, element(World.added, page));
    const pfn = fileGetPage(cpu, file, page); // it may be in the swap area
    const found = pfn === 0 ? 0 : readOnce(cpu, frameOf(cpu, pfn), frameWord(ADDED_WORD));
    if (pfn !== 0) putPage(cpu, pfn);
    if (found !== added) bug(`INV-24: ${added} was added to page ${page}, and ${found} is there`);
  }
}

// --- who serves faults ---

const services = new WeakMap<TortureMember, readonly FaultService[]>();

/** A member begins to serve the faults of a device. */
export function enterService(cpu: Cpu, world: World, member: TortureMember, id: number): void {
  const made: FaultService[] = [];
  for (let i = 0; i < read(cpu, world, World.drivers); i++) {
    const service = createFaultService(cpu, deviceAt(cpu, world, id, i));
    if (service === undefined) bug('there is no memory for a service of faults');
    made.push(service);
  }
  services.set(member, made);
}

/** Serves what there is; how many faults it were. */
export function serve(cpu: Cpu, member: TortureMember): number {
  let served = 0;
  for (const service of services.get(member) ?? []) {
    armFailure(cpu, member);
    served += serveBatch(cpu, service);
    disarmFailure(cpu);
  }
  return served;
}

export function leaveService(cpu: Cpu, member: TortureMember): void {
  for (const service of services.get(member) ?? []) destroyFaultService(cpu, service);
  services.delete(member);
}

export const BINDING_OPERATIONS: readonly Operation[] = [
  { name: 'device_open', run: open },
  { name: 'device_close', run: close },
];
