/**
 * Managed resources: what a driver takes for a device goes when it lets go of the device.
 *
 * Kernel     drivers/base/devres.c
 * Protocol   Each resource is a node in the device's list, appended under its lock. Letting go takes the
 *            whole list off at once, gives the lock back, and undoes from the newest to the oldest: so an
 *            action may sleep, and may look at the list. What an action adds is not part of this round.
 * Invariant  I1  Every action that was added is run once, or was removed: never both, never twice. Who takes
 *                a node off the list, under the lock, owns it.
 *            I2  What was taken first goes last.
 * Ordering   Device.devresLock. The device's own lock is held around a driver's whole life with it, but
 *            devres does not ask for that.
 * Deviation  No groups. A node says what it is by its kind, and an action by the number of an ops table.
 *
 * @module
 */
import { read, write } from '#memory';
import { BUSTED_DEVRES, BUSTED_DEVRES_FIFO, isMutant } from '#mutants';

import { ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { kfree, kfreeObject, kzalloc, type ObjectLayout } from '../machine/slab.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { warn } from '../machine/warn.js';
import { containerOf, member, NULL, type Ptr } from '../memory/layout.js';
import {
  initListHead,
  listAddTail,
  listDelInit,
  listEmpty,
  ListHead,
  listNext,
  listPrev,
  listSpliceInit,
} from '../memory/list.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { freeRegion } from './region.js';
import { Device, DevmAction, DevmMemory, DevmRegion, Devres } from './types.js';

/** What is done when a device is let go of, or on request. Under the device's lock; may sleep. */
export interface DevmActionOps extends OpsTable {
  readonly action: (cpu: Cpu, data: number) => void;
}

const DEVRES_ACTION = 1;
const DEVRES_MEMORY = 2;
const DEVRES_REGION = 3;

const DEVRES_LOCK = lockClass('dev->devres_lock');

/** Makes an empty list. Once, before anybody else knows the device. */
export function devresInit(cpu: Cpu, dev: Device): void {
  initSpinlock(cpu, member(dev, Device.devresLock), DEVRES_LOCK);
  initListHead(cpu, member(dev, Device.devres));
}

/** True if nothing is managed. Exact while nobody adds or removes anything. */
export function devresEmpty(cpu: Cpu, dev: Device): boolean {
  const lock = member(dev, Device.devresLock);
  spinLock(cpu, lock);
  const isEmpty = listEmpty(cpu, member(dev, Device.devres));
  spinUnlock(cpu, lock);
  return isEmpty;
}

// --- actions ---

/** Runs `action(data)` when the device is let go of; -ENOMEM, and then it never will. @kernel devm_add_action */
export function devmAddAction(cpu: Cpu, dev: Device, ops: DevmActionOps, data: number): number {
  const action = kzalloc(cpu, DevmAction);
  if (action === NULL) return -ENOMEM;
  write(cpu, action, DevmAction.ops, opsIndex(cpu, ops));
  write(cpu, action, DevmAction.data, data);
  addNode(cpu, dev, member(action, DevmAction.node), DEVRES_ACTION);
  return 0;
}

/** As devmAddAction; if that fails, runs the action at once. @kernel devm_add_action_or_reset */
export function devmAddActionOrReset(
  cpu: Cpu,
  dev: Device,
  ops: DevmActionOps,
  data: number,
): number {
  const error = devmAddAction(cpu, dev, ops, data);
  if (error !== 0) ops.action(cpu, data);
  return error;
}

/** Runs an action now that was to run later; warns if there is none such. @kernel devm_release_action */
export function devmReleaseAction(cpu: Cpu, dev: Device, ops: DevmActionOps, data: number): void {
  if (isMutant(cpu, BUSTED_DEVRES)) ops.action(cpu, data); // before it is known to be ours
  const isOurs = forgetAction(cpu, dev, ops, data);
  if (isOurs && !isMutant(cpu, BUSTED_DEVRES)) ops.action(cpu, data);
}

/** Forgets an action that was to run; warns if there is none such. @kernel devm_remove_action */
export function devmRemoveAction(cpu: Cpu, dev: Device, ops: DevmActionOps, data: number): void {
  forgetAction(cpu, dev, ops, data);
}

/** Takes the newest action of that kind off the list (I1). */
function forgetAction(cpu: Cpu, dev: Device, ops: DevmActionOps, data: number): boolean {
  const index = opsIndex(cpu, ops);
  const lock = member(dev, Device.devresLock);
  spinLock(cpu, lock);
  const action = findAction(cpu, dev, index, data);
  if (action !== NULL) unlinkNode(cpu, member(action, DevmAction.node));
  spinUnlock(cpu, lock);
  if (action === NULL) warn(cpu, `device ${dev} has no action ${ops.opsName}(${data})`);
  kfree(cpu, DevmAction, action);
  return action !== NULL;
}

/** devresLock must be held. */
function findAction(cpu: Cpu, dev: Device, ops: number, data: number): DevmAction {
  const head = member(dev, Device.devres);
  for (let link = listPrev(cpu, head); link !== head; link = listPrev(cpu, link)) {
    const node: Devres = containerOf(link, Devres.link);
    if (read(cpu, node, Devres.type) !== DEVRES_ACTION) continue;
    const action: DevmAction = containerOf(node, DevmAction.node);
    if (read(cpu, action, DevmAction.ops) !== ops) continue;
    if (read(cpu, action, DevmAction.data) === data) return action;
  }
  return NULL;
}

// --- memory ---

/** A zeroed struct that lives until the device is let go of; NULL if memory is out. @kernel devm_kzalloc */
export function devmKzalloc<S extends string>(
  cpu: Cpu,
  dev: Device,
  layout: ObjectLayout<S>,
): Ptr<S> {
  const memory = kzalloc(cpu, {
    structName: `devm ${layout.structName}`,
    words: DevmMemory.words + layout.words,
  }) as number as DevmMemory;
  if (memory === NULL) return NULL;
  addNode(cpu, dev, member(memory, DevmMemory.node), DEVRES_MEMORY);
  return (memory + DevmMemory.words) as Ptr<S>;
}

/** Gives such a struct back now; warns if it is none of the device's. @kernel devm_kfree */
export function devmKfree<S extends string>(cpu: Cpu, dev: Device, object: Ptr<S>): void {
  const memory = (object - DevmMemory.words) as DevmMemory;
  if (takeOff(cpu, dev, member(memory, DevmMemory.node))) kfreeObject(cpu, memory);
  else warn(cpu, `device ${dev} has no memory at ${object}`);
}

// --- ranges of physical addresses ---

/** Lets go of a range when the device is let go of; -ENOMEM, and then it never will. */
export function devmAddRegion(cpu: Cpu, dev: Device, resource: Ptr<'resource'>): number {
  const region = kzalloc(cpu, DevmRegion);
  if (region === NULL) return -ENOMEM;
  write(cpu, region, DevmRegion.resource, resource);
  addNode(cpu, dev, member(region, DevmRegion.node), DEVRES_REGION);
  return 0;
}

/** Lets go of such a range now; warns if it is none of the device's. */
export function devmReleaseRegion(cpu: Cpu, dev: Device, resource: Ptr<'resource'>): void {
  const lock = member(dev, Device.devresLock);
  spinLock(cpu, lock);
  const region = findRegion(cpu, dev, resource);
  if (region !== NULL) unlinkNode(cpu, member(region, DevmRegion.node));
  spinUnlock(cpu, lock);
  if (region === NULL) warn(cpu, `device ${dev} has no region ${resource}`);
  else undo(cpu, member(region, DevmRegion.node));
}

/** devresLock must be held. */
function findRegion(cpu: Cpu, dev: Device, resource: Ptr<'resource'>): DevmRegion {
  const head = member(dev, Device.devres);
  for (let link = listPrev(cpu, head); link !== head; link = listPrev(cpu, link)) {
    const node: Devres = containerOf(link, Devres.link);
    if (read(cpu, node, Devres.type) !== DEVRES_REGION) continue;
    const region: DevmRegion = containerOf(node, DevmRegion.node);
    if (read(cpu, region, DevmRegion.resource) === resource) return region;
  }
  return NULL;
}

// --- letting go ---

/** Undoes all there is, the newest first (I2); returns how much it was. Sleeps. @kernel devres_release_all */
export function devresReleaseAll(cpu: Cpu, dev: Device): number {
  const todo = stackPush(cpu, ListHead);
  const lock = member(dev, Device.devresLock);
  initListHead(cpu, todo);
  spinLock(cpu, lock);
  listSpliceInit(cpu, member(dev, Device.devres), todo);
  spinUnlock(cpu, lock);
  let count = 0;
  while (!listEmpty(cpu, todo)) {
    const link = isMutant(cpu, BUSTED_DEVRES_FIFO) ? listNext(cpu, todo) : listPrev(cpu, todo);
    const node: Devres = containerOf(link, Devres.link);
    listDelInit(cpu, link);
    undo(cpu, node);
    count++;
  }
  stackPop(cpu, todo);
  return count;
}

/** The caller has taken the node off its list (I1), and holds no spinlock. Sleeps. */
function undo(cpu: Cpu, node: Devres): void {
  const kind = read(cpu, node, Devres.type);
  if (kind === DEVRES_ACTION) {
    const action: DevmAction = containerOf(node, DevmAction.node);
    const ops = opsAt(cpu, read(cpu, action, DevmAction.ops)) as DevmActionOps;
    ops.action(cpu, read(cpu, action, DevmAction.data));
    kfree(cpu, DevmAction, action);
  } else if (kind === DEVRES_REGION) {
    const region: DevmRegion = containerOf(node, DevmRegion.node);
    freeRegion(cpu, read(cpu, region, DevmRegion.resource));
    kfree(cpu, DevmRegion, region);
  } else {
    kfreeObject(cpu, containerOf(node, DevmMemory.node));
  }
}

// --- the list ---

function addNode(cpu: Cpu, dev: Device, node: Devres, kind: number): void {
  const lock = member(dev, Device.devresLock);
  write(cpu, node, Devres.type, kind);
  spinLock(cpu, lock);
  listAddTail(cpu, member(node, Devres.link), member(dev, Device.devres));
  spinUnlock(cpu, lock);
}

/** devresLock must be held, and the node on the list. */
function unlinkNode(cpu: Cpu, node: Devres): void {
  listDelInit(cpu, member(node, Devres.link));
}

/** Takes a node off the device's list, if it is there (I1). */
function takeOff(cpu: Cpu, dev: Device, node: Devres): boolean {
  const head = member(dev, Device.devres);
  const lock = member(dev, Device.devresLock);
  const wanted = member(node, Devres.link);
  spinLock(cpu, lock);
  let link = listNext(cpu, head);
  while (link !== head && link !== wanted) link = listNext(cpu, link);
  if (link !== head) unlinkNode(cpu, node);
  spinUnlock(cpu, lock);
  return link !== head;
}
