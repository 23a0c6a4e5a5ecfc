/**
 * Modules: code that is loaded into the kernel while it runs, and may use what its license allows.
 *
 * Kernel     kernel/module/main.c
 * Protocol   load:    the name is not taken; the license is looked at (a module that is not for all to see
 *                     taints the kernel, whether or not it can then be loaded); every symbol it needs is
 *                     resolved; init runs; it is live.
 *                     A name that is taken stays so for whoever came second, whatever comes of the first:
 *                     it waits at most once, until that one is formed, and then gives up. It does not try
 *                     what has just failed (so since 6.3; before, it did when the first had gone).
 *            unload:  it is live; nobody uses it, and from now on nobody can (its count goes to 0); exit
 *                     runs; it is gone.
 *              COMING -> LIVE -> GOING -> gone        COMING -> GOING -> gone  if init fails
 * Invariant  I1  init and exit take turns, and exit runs once for each init that succeeded.
 *            I2  Nobody gets a reference to a module that is going.
 *            I3  A module that is not GPL-compatible never runs if it needs a symbol for GPL modules only.
 * Ordering   DeviceCore.moduleLock protects the list and the states; it is not held over init and exit,
 *            which may themselves load and unload modules. `refs` is atomic.
 * Deviation  Every worker has the code already, as an ops table; loading makes it known and runs init. No
 *            module exports symbols, so none depends on another; no parameters, versions or signatures.
 *
 * @module
 */
import { cmpxchg, fetchAdd, fetchOr, read, readOnce, write, writeOnce } from '#memory';
import { BUSTED_MODULE_GET, isMutant } from '#mutants';

import { FaultlineError } from '../base/bug.js';
import { EBUSY, EEXIST, ENOENT, ENOMEM, EWOULDBLOCK } from '../base/errno.js';
import { noteBegun, noteEnded } from '../debug/begun.js';
import type { Cpu } from '../machine/cpu.js';
import { type LockClass, lockClass } from '../machine/lock-class.js';
import { defineOps, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { printk } from '../machine/printk.js';
import { schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { WAIT_MODULE } from '../machine/wait-kind.js';
import { warn } from '../machine/warn.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import { listAddTail, listDelInit, listNext } from '../memory/list.js';
import { mutexLock, mutexUnlock } from '../sync/mutex.js';
import { finishWait, initWait, prepareToWait, wakeUpAll } from '../sync/wait-queue.js';
import { deviceCore } from './core.js';
import { ERAS, exportKind } from './exports.js';
import { licenseIsGplCompatible } from './license.js';
import { DeviceCore, KernelModule } from './types.js';

/** A module, as `defineModule` makes it. */
export interface ModuleOps extends OpsTable {
  readonly license: string;
  /** Kernel symbols that it uses, by their names in Linux. */
  readonly needs: readonly string[];
  /** Its name, in reports. */
  readonly lockClass: LockClass;
  /** 0, or an error: then it is not loaded. No lock held; may sleep. */
  readonly init?: (cpu: Cpu, module: KernelModule) => number;
  /** Undoes init. Without it a module that has init cannot be unloaded. No lock held; may sleep. */
  readonly exit?: (cpu: Cpu, module: KernelModule) => void;
}

/** What defineModule is given. */
export interface ModuleDefinition extends Omit<ModuleOps, 'opsName' | 'needs' | 'lockClass'> {
  readonly name: string;
  readonly needs?: readonly string[];
}

export const MODULE_STATE_LIVE = 0;
export const MODULE_STATE_COMING = 1;
export const MODULE_STATE_GOING = 2;

/** DeviceCore.taint: a module was loaded, or was to be, that is not GPL-compatible. */
export const TAINT_PROPRIETARY_MODULE = 1 << 0;

/** What a module's count of references has when nobody uses it. */
const MODULE_REF_BASE = 1;

const MEMBERS: Readonly<Record<string, string>> = {
  name: 'string',
  license: 'string',
  needs: 'object',
  init: 'function',
  exit: 'function',
};

/**
 * A module of one's own. Export it: every worker must load the file that has it, as it does drivers.
 * @throws FaultlineError for a member that there is not, or of another type
 */
export function defineModule(definition: ModuleDefinition): Readonly<ModuleOps> {
  for (const [member, value] of Object.entries(definition)) {
    const expected = MEMBERS[member];
    if (expected === undefined) {
      throw badModule(`there is no member ${member}; there are ${Object.keys(MEMBERS).join(', ')}`);
    }
    if (typeof value !== expected) {
      throw badModule(`${member} is a ${typeof value}, not a ${expected}`);
    }
  }
  const { name, needs = [], ...rest } = definition;
  if (typeof name !== 'string') throw badModule('it needs a name');
  if (typeof rest.license !== 'string') throw badModule(`${name} needs a license`);
  if (!isList(needs)) throw badModule(`the needs of ${name} are a list of symbols`);
  return defineOps({ opsName: name, needs: [...needs], lockClass: lockClass(name), ...rest });
}

/** True for what defineModule returns. */
export function isModule(value: unknown): value is ModuleOps {
  if (typeof value !== 'object' || value === null) return false;
  const { opsName, license, needs } = value as Partial<ModuleOps>;
  return typeof opsName === 'string' && typeof license === 'string' && Array.isArray(needs);
}

function isList(value: unknown): value is readonly unknown[] {
  return Array.isArray(value);
}

function badModule(reason: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_MODULE', `defineModule: ${reason}`);
}

/**
 * Loads a module and runs its init: 0, -EEXIST if it is loaded, -EBUSY if it is going or somebody else's
 * loading of it has failed meanwhile, -ENOENT if it needs a symbol that there is not or that is not for it
 * (the kernel's log says which), -ENOMEM, or what init returned. No lock held. Sleeps. @kernel init_module
 */
export function loadModule(cpu: Cpu, ops: ModuleOps): number {
  const module = kzalloc(cpu, KernelModule);
  if (module === NULL) return -ENOMEM;
  write(cpu, module, KernelModule.ops, opsIndex(cpu, ops));
  write(cpu, module, KernelModule.lockClass, ops.lockClass);
  writeOnce(cpu, module, KernelModule.refs, MODULE_REF_BASE + 1); // the loader is a user of it
  let error = addModule(cpu, module);
  if (error !== 0) {
    kfree(cpu, KernelModule, module);
    return error;
  }
  checkLicense(cpu, ops);
  error = resolveSymbols(cpu, ops);
  if (error === 0 && ops.init !== undefined) error = ops.init(cpu, module);
  if (error < 0) {
    setState(cpu, module, MODULE_STATE_GOING);
    if (moduleRefcount(cpu, module) !== 1)
      warn(cpu, `${ops.opsName}: its init has failed, and it is in use`);
    forgetModule(cpu, module);
    return error;
  }
  if (error > 0) {
    const should = 'it should follow 0/-E convention';
    printk(cpu, `${ops.opsName}: '${ops.opsName}'->init suspiciously returned ${error}, ${should}`);
  }
  setState(cpu, module, MODULE_STATE_LIVE);
  modulePut(cpu, module);
  return 0;
}

/**
 * Runs a module's exit and forgets it: 0, -ENOENT if it is not loaded, -EBUSY if it is being loaded or
 * unloaded or has no exit, -EWOULDBLOCK if it is in use. No lock held. Sleeps. @kernel delete_module
 */
export function unloadModule(cpu: Cpu, ops: ModuleOps): number {
  const lock = member(deviceCore(cpu), DeviceCore.moduleLock);
  mutexLock(cpu, lock);
  const module = findModuleLocked(cpu, opsIndex(cpu, ops));
  const error = module === NULL ? -ENOENT : stopModule(cpu, module, ops);
  mutexUnlock(cpu, lock);
  if (error !== 0) return error;
  if (ops.exit !== undefined) ops.exit(cpu, module);
  forgetModule(cpu, module);
  return 0;
}

/** The module, if it is loaded or being so, else NULL; good as long as nobody unloads it. @kernel find_module */
export function findModule(cpu: Cpu, ops: ModuleOps): KernelModule {
  const lock = member(deviceCore(cpu), DeviceCore.moduleLock);
  mutexLock(cpu, lock);
  const module = findModuleLocked(cpu, opsIndex(cpu, ops));
  mutexUnlock(cpu, lock);
  return module;
}

/** As findModule, and starts to use it; NULL also if it is not live. @kernel find_module, try_module_get */
export function findModuleGet(cpu: Cpu, ops: ModuleOps): KernelModule {
  const lock = member(deviceCore(cpu), DeviceCore.moduleLock);
  mutexLock(cpu, lock);
  const module = findModuleLocked(cpu, opsIndex(cpu, ops));
  const isOurs = module !== NULL && mayBeUsed(cpu, module) && tryModuleGet(cpu, module);
  mutexUnlock(cpu, lock);
  return isOurs ? module : NULL;
}

/** moduleLock must be held. */
function mayBeUsed(cpu: Cpu, module: KernelModule): boolean {
  return isMutant(cpu, BUSTED_MODULE_GET) || isLive(cpu, module);
}

/** Its init has succeeded, and its exit has not been asked for. moduleLock must be held. */
function isLive(cpu: Cpu, module: KernelModule): boolean {
  return read(cpu, module, KernelModule.state) === MODULE_STATE_LIVE;
}

/** Its init has not come back. moduleLock must be held. */
function isComing(cpu: Cpu, module: KernelModule): boolean {
  return read(cpu, module, KernelModule.state) === MODULE_STATE_COMING;
}

/** Its exit has been asked for, or its init has failed. */
function isGoing(cpu: Cpu, module: KernelModule): boolean {
  return readOnce(cpu, module, KernelModule.state) === MODULE_STATE_GOING;
}

/** What init has left for the module's own use: most often a struct with its variables. */
export function moduleData(cpu: Cpu, module: KernelModule): number {
  return read(cpu, module, KernelModule.data);
}

/** Leaves it; for init, which nobody else runs beside. */
export function setModuleData(cpu: Cpu, module: KernelModule, data: number): void {
  write(cpu, module, KernelModule.data, data);
}

/** Starts to use a module: as long as that goes on it is not unloaded. False if it is going (I2). @kernel try_module_get */
export function tryModuleGet(cpu: Cpu, module: KernelModule): boolean {
  if (!isMutant(cpu, BUSTED_MODULE_GET) && isGoing(cpu, module)) return false;
  let seen = readOnce(cpu, module, KernelModule.refs);
  while (isMutant(cpu, BUSTED_MODULE_GET) || seen !== 0) {
    const before = cmpxchg(cpu, module, KernelModule.refs, seen, seen + 1);
    if (before === seen) return true;
    seen = before;
  }
  return false;
}

/** Ends the use of a module. @kernel module_put */
export function modulePut(cpu: Cpu, module: KernelModule): void {
  const before = fetchAdd(cpu, module, KernelModule.refs, -1);
  if (before <= MODULE_REF_BASE) warn(cpu, `module ${module}: put without a get`);
}

/** How many use the module. @kernel module_refcount */
export function moduleRefcount(cpu: Cpu, module: KernelModule): number {
  return readOnce(cpu, module, KernelModule.refs) - MODULE_REF_BASE;
}

/** TAINT_* of the kernel. @kernel get_taint */
export function getTaint(cpu: Cpu): number {
  return readOnce(cpu, deviceCore(cpu), DeviceCore.taint);
}

// --- loading ---

/** Says that the module is coming, if its name is free; see loadModule. @kernel add_unformed_module */
function addModule(cpu: Cpu, module: KernelModule): number {
  const core = deviceCore(cpu);
  const lock = member(core, DeviceCore.moduleLock);
  const index = read(cpu, module, KernelModule.ops);
  mutexLock(cpu, lock);
  const error = findModuleLocked(cpu, index) === NULL ? 0 : waitUntilFormedLocked(cpu, index);
  if (error === 0) {
    writeOnce(cpu, module, KernelModule.state, MODULE_STATE_COMING);
    listAddTail(cpu, member(module, KernelModule.link), member(core, DeviceCore.modules));
    noteBegun(cpu, module);
  }
  mutexUnlock(cpu, lock);
  return error;
}

/**
 * Why a module whose name is taken cannot be loaded, which is known once the other is formed: -EEXIST if that
 * is live, -EBUSY if it is going or gone. moduleLock must be held, and is given up while it waits.
 * @kernel module_patient_check_exists
 */
function waitUntilFormedLocked(cpu: Cpu, index: number): number {
  const core = deviceCore(cpu);
  const lock = member(core, DeviceCore.moduleLock);
  const queue = member(core, DeviceCore.moduleWait);
  let other = findModuleLocked(cpu, index);
  if (other !== NULL && isComing(cpu, other)) {
    const wait = initWait(cpu, WAIT_MODULE, other);
    do {
      prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
      mutexUnlock(cpu, lock);
      schedule(cpu);
      mutexLock(cpu, lock);
      other = findModuleLocked(cpu, index);
    } while (other !== NULL && isComing(cpu, other));
    finishWait(cpu, queue, wait);
  }
  return other !== NULL && isLive(cpu, other) ? -EEXIST : -EBUSY;
}

/** @kernel module_license_taint_check */
function checkLicense(cpu: Cpu, ops: ModuleOps): void {
  if (licenseIsGplCompatible(ops.license)) return;
  const before = fetchOr(cpu, deviceCore(cpu), DeviceCore.taint, TAINT_PROPRIETARY_MODULE);
  if ((before & TAINT_PROPRIETARY_MODULE) !== 0) return;
  printk(cpu, `${ops.opsName}: module license '${ops.license}' taints kernel.`);
}

/** Says which symbols there are not, or not for such a module (I3). @kernel simplify_symbols */
function resolveSymbols(cpu: Cpu, ops: ModuleOps): number {
  const era = read(cpu, deviceCore(cpu), DeviceCore.era);
  const unknown = unknownSymbols(ops, era);
  for (const symbol of unknown) printk(cpu, unknownSymbolMessage(ops, symbol));
  return unknown.length === 0 ? 0 : -ENOENT;
}

/** What a module needs and does not get in the era with that index, for its license or for everybody. */
export function unknownSymbols(ops: ModuleOps, era = ERAS.indexOf('6.12')): readonly string[] {
  const isGpl = licenseIsGplCompatible(ops.license);
  return ops.needs.filter((symbol) => {
    const kind = exportKind(symbol, era);
    return kind !== 'plain' && !(kind === 'gpl' && isGpl);
  });
}

/** What the kernel says of it. */
export function unknownSymbolMessage(ops: ModuleOps, symbol: string): string {
  return `${ops.opsName}: Unknown symbol ${symbol} (err ${-ENOENT})`;
}

// --- unloading; moduleLock must be held ---

/** Makes sure that nobody uses the module, nor will. @kernel try_stop_module */
function stopModule(cpu: Cpu, module: KernelModule, ops: ModuleOps): number {
  if (!isLive(cpu, module)) return -EBUSY;
  if (ops.init !== undefined && ops.exit === undefined) return -EBUSY;
  if (cmpxchg(cpu, module, KernelModule.refs, MODULE_REF_BASE, 0) !== MODULE_REF_BASE) {
    return -EWOULDBLOCK;
  }
  writeOnce(cpu, module, KernelModule.state, MODULE_STATE_GOING);
  return 0;
}

function findModuleLocked(cpu: Cpu, ops: number): KernelModule {
  const head = member(deviceCore(cpu), DeviceCore.modules);
  for (let link = listNext(cpu, head); link !== head; link = listNext(cpu, link)) {
    const module: KernelModule = containerOf(link, KernelModule.link);
    if (read(cpu, module, KernelModule.ops) === ops) return module;
  }
  return NULL;
}

// --- states ---

/** Its init has come back. */
function setState(cpu: Cpu, module: KernelModule, state: number): void {
  const core = deviceCore(cpu);
  mutexLock(cpu, member(core, DeviceCore.moduleLock));
  writeOnce(cpu, module, KernelModule.state, state);
  noteEnded(cpu, module);
  mutexUnlock(cpu, member(core, DeviceCore.moduleLock));
  wakeUpAll(cpu, member(core, DeviceCore.moduleWait));
}

/** It is loaded no more; whoever comes from now on may have its name. @kernel free_module */
function forgetModule(cpu: Cpu, module: KernelModule): void {
  const core = deviceCore(cpu);
  mutexLock(cpu, member(core, DeviceCore.moduleLock));
  listDelInit(cpu, member(module, KernelModule.link));
  mutexUnlock(cpu, member(core, DeviceCore.moduleLock));
  wakeUpAll(cpu, member(core, DeviceCore.moduleWait));
  kfree(cpu, KernelModule, module);
}
