/**
 * One operation of a replay, performed on the emulated machine.
 *
 * Addresses are kept: where the log shows that the kernel chose one, the call is made for exactly that,
 * and fails if something is there.
 *
 * @module
 */

import { bug } from '../../base/bug.js';
import { EEXIST, ENOMEM } from '../../base/errno.js';
import { isPageAligned, pageAlignUp, TASK_SIZE } from '../../base/units.js';
import { closeContext, findContext, openContext, putContext } from '../../drivers/svm/device.js';
import type { SvmDevice } from '../../drivers/svm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { NULL, type Va } from '../../memory/layout.js';
import { mmput } from '../../mm/exit.js';
import { createFile, fput } from '../../mm/file.js';
import { dupMm } from '../../mm/fork.js';
import { madvise } from '../../mm/madvise.js';
import { mincore } from '../../mm/mincore.js';
import { mlock, mlockall, msync, munlock, munlockall } from '../../mm/mlock.js';
import { mmAlloc, mmget, setBrk, useMm } from '../../mm/mm-struct.js';
import { brk, mmap } from '../../mm/mmap.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { mprotect } from '../../mm/mprotect.js';
import { mremap } from '../../mm/mremap.js';
import { munmap } from '../../mm/munmap.js';
import type { MmStruct } from '../../mm/types.js';
import {
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_PRIVATE,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  PROT_READ,
  PROT_WRITE,
} from '../../mm/uapi.js';
import { findVmaIntersection } from '../../mm/vma.js';
import {
  type EncodedPlan,
  field,
  OPCODES,
  ROW_ARGS,
  ROW_EXPECTED,
  ROW_LINE,
  ROW_MM,
  ROW_OPCODE,
} from './encode.js';
import { countTasks, fileAt, mmAt, type ReplayState, setMm } from './replay-state.js';

/** What every CPU of a replay knows. */
export interface ReplayWorld {
  readonly state: ReplayState;
  readonly plan: EncodedPlan;
  readonly devices: readonly SvmDevice[];
}

/** True if the operation stands for a call on an address space, and not for a birth or an end. */
export function isCall(plan: EncodedPlan, row: number): boolean {
  return field(plan, row, ROW_OPCODE) < OPCODES.fork;
}

/** Performs it and returns what the call returned. Sleeps. */
export function perform(cpu: Cpu, world: ReplayWorld, row: number): number {
  const { state, plan } = world;
  const opcode = field(plan, row, ROW_OPCODE);
  const index = field(plan, row, ROW_MM);
  if (opcode === OPCODES.exec) return performExec(cpu, world, row, index);
  const mm = mmAt(cpu, state, index);
  if (mm === NULL) bug(`line ${field(plan, row, ROW_LINE)}: its address space is not there`);
  useMm(cpu, mm);
  switch (opcode) {
    case OPCODES.fork:
      return performFork(cpu, world, row, mm);
    case OPCODES.thread:
    case OPCODES.vfork:
      mmget(cpu, mm); // the child's; it leaves by exit or exec
      countTasks(cpu, state, index, 1);
      return field(plan, row, ROW_EXPECTED);
    case OPCODES.exit:
      leaveMm(cpu, world, index);
      return 0;
    default:
      return performCall(cpu, world, row, opcode, mm);
  }
}

function performCall(
  cpu: Cpu,
  world: ReplayWorld,
  row: number,
  opcode: number,
  mm: MmStruct,
): number {
  const { plan } = world;
  const a = field(plan, row, ROW_ARGS);
  const b = field(plan, row, ROW_ARGS + 1);
  const c = field(plan, row, ROW_ARGS + 2);
  switch (opcode) {
    case OPCODES.mmap:
      return performMmap(cpu, world, row, mm);
    case OPCODES.munmap:
      return munmap(cpu, mm, a, b);
    case OPCODES.mprotect:
      return mprotect(cpu, mm, a, b, c);
    case OPCODES.mremap:
      return performMremap(cpu, plan, row, mm);
    case OPCODES.madvise:
      return madvise(cpu, mm, a, b, c);
    case OPCODES.brk:
      return brk(cpu, mm, a);
    case OPCODES.mlock:
      return mlock(cpu, mm, a, b, 0);
    case OPCODES.mlock2:
      return mlock(cpu, mm, a, b, c);
    case OPCODES.munlock:
      return munlock(cpu, mm, a, b);
    case OPCODES.mlockall:
      return mlockall(cpu, mm, a);
    case OPCODES.munlockall:
      return munlockall(cpu, mm);
    case OPCODES.msync:
      return msync(cpu, mm, a, b, c);
    case OPCODES.mincore:
      return mincore(cpu, mm, a, b);
    default:
      return bug(`line ${field(plan, row, ROW_LINE)}: unknown operation ${opcode}`);
  }
}

function performMmap(cpu: Cpu, world: ReplayWorld, row: number, mm: MmStruct): Va {
  const { plan, state } = world;
  const address = field(plan, row, ROW_ARGS);
  const length = field(plan, row, ROW_ARGS + 1);
  const prot = field(plan, row, ROW_ARGS + 2);
  const logged = field(plan, row, ROW_ARGS + 3);
  const file = field(plan, row, ROW_ARGS + 4);
  const offset = field(plan, row, ROW_ARGS + 5);
  const flags = mmapFlags(logged, address, length, field(plan, row, ROW_EXPECTED));
  return mmap(
    cpu,
    mm,
    address,
    length,
    prot,
    flags,
    file < 0 ? NULL : fileAt(cpu, state, file),
    offset,
  );
}

/**
 * A mapping that the kernel placed must find its place free. One that failed has replaced nothing, so it is
 * tried at any other place, unless its place is already wrong by itself.
 */
function mmapFlags(logged: number, address: Va, length: number, expected: number): number {
  const isFixed = (logged & MAP_FIXED) !== 0;
  if (expected >= 0) return isFixed ? logged : logged | MAP_FIXED_NOREPLACE;
  const isPlace = isPageAligned(address) && address + pageAlignUp(length) <= TASK_SIZE;
  const replaces = (logged & (MAP_FIXED | MAP_FIXED_NOREPLACE)) === MAP_FIXED;
  return replaces && isPlace ? logged & ~MAP_FIXED : logged;
}

/** A move to where the kernel chose is a move to a fixed place that must be free. */
function performMremap(cpu: Cpu, plan: EncodedPlan, row: number, mm: MmStruct): Va {
  const address = field(plan, row, ROW_ARGS);
  const oldLength = field(plan, row, ROW_ARGS + 1);
  const newLength = field(plan, row, ROW_ARGS + 2);
  const flags = field(plan, row, ROW_ARGS + 3);
  const target = field(plan, row, ROW_ARGS + 4);
  const wasPlaced =
    field(plan, row, ROW_EXPECTED) >= 0 && (flags & MREMAP_FIXED) === 0 && target !== address;
  if (!wasPlaced) return mremap(cpu, mm, address, oldLength, newLength, flags, target);
  mmapReadLock(cpu, mm);
  const end = target + pageAlignUp(newLength);
  const isTaken = findVmaIntersection(cpu, mm, target, end) !== NULL;
  mmapReadUnlock(cpu, mm);
  if (isTaken) return -EEXIST;
  const fixed = flags | MREMAP_MAYMOVE | MREMAP_FIXED;
  return mremap(cpu, mm, address, oldLength, newLength, fixed, target);
}

/** A new program: a new address space with the image that the exec mapped, instead of the old. */
function performExec(cpu: Cpu, world: ReplayWorld, row: number, old: number): number {
  const { plan } = world;
  const index = field(plan, row, ROW_ARGS);
  const startBrk = field(plan, row, ROW_ARGS + 1);
  const mm = mmAlloc(cpu);
  if (mm === NULL) return -ENOMEM;
  if (startBrk !== 0) setBrk(cpu, mm, startBrk);
  const first = plan.mmImages[2 * index] ?? 0;
  const count = plan.mmImages[2 * index + 1] ?? 0;
  for (let i = first; i < first + count; i++) {
    mapImage(cpu, mm, plan.images[2 * i] ?? 0, plan.images[2 * i + 1] ?? 0);
  }
  if (old >= 0) leaveMm(cpu, world, old);
  enterMm(cpu, world, index, mm);
  return 0;
}

/** A part of a program's image: private memory with the contents of a file. */
function mapImage(cpu: Cpu, mm: MmStruct, start: Va, end: Va): void {
  const file = createFile(cpu, end - start, IMAGE_FILE);
  if (file === NULL) return;
  mmap(cpu, mm, start, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0);
  fput(cpu, file);
}
/** Seed of an image's contents. */
const IMAGE_FILE = 0x7e1f;

function performFork(cpu: Cpu, world: ReplayWorld, row: number, parent: MmStruct): number {
  const child = dupMm(cpu, parent);
  if (child === NULL) return -ENOMEM;
  enterMm(cpu, world, field(world.plan, row, ROW_ARGS + 1), child);
  return field(world.plan, row, ROW_EXPECTED);
}

/** The address space begins, with one task in it, and the devices get to know it. */
function enterMm(cpu: Cpu, world: ReplayWorld, index: number, mm: MmStruct): void {
  countTasks(cpu, world.state, index, 1);
  for (const device of world.devices) {
    if (openContext(cpu, device, mm) === NULL) bug("no memory for a device's context");
  }
  setMm(cpu, world.state, index, mm);
}

/**
 * A task leaves the address space. As in an exit, the memory goes first and the device's file is closed
 * after it.
 */
export function leaveMm(cpu: Cpu, world: ReplayWorld, index: number): void {
  const { state } = world;
  const mm = mmAt(cpu, state, index);
  const isLast = countTasks(cpu, state, index, -1) === 1;
  if (isLast) setMm(cpu, state, index, NULL);
  mmput(cpu, mm);
  if (!isLast) return;
  for (const device of world.devices) {
    const context = findContext(cpu, device, mm);
    if (context === NULL) continue;
    closeContext(cpu, context);
    putContext(cpu, context);
  }
}

/**
 * A call ended otherwise than in the log: takes back what it did, so that the calls after it find the
 * address space as they found it then. Not taken back: protections, unmappings, and of memory that a call
 * was to lock, that it was locked before.
 */
export function undo(cpu: Cpu, world: ReplayWorld, row: number, emulated: number): void {
  const { plan, state } = world;
  const mm = mmAt(cpu, state, field(plan, row, ROW_MM));
  if (mm === NULL) return;
  const expected = field(plan, row, ROW_EXPECTED);
  const opcode = field(plan, row, ROW_OPCODE);
  if (opcode === OPCODES.brk) brk(cpu, mm, expected);
  if (expected >= 0) return;
  const address = field(plan, row, ROW_ARGS);
  const length = field(plan, row, ROW_ARGS + 1);
  if (opcode === OPCODES.mlock || opcode === OPCODES.mlock2) munlock(cpu, mm, address, length);
  else if (opcode === OPCODES.mlockall) munlockall(cpu, mm);
  else if (opcode === OPCODES.mmap && emulated >= 0) munmap(cpu, mm, emulated, length);
  else if (opcode === OPCODES.mremap && emulated >= 0) undoMremap(cpu, plan, row, mm, emulated);
}

function undoMremap(cpu: Cpu, plan: EncodedPlan, row: number, mm: MmStruct, emulated: Va): void {
  const address = field(plan, row, ROW_ARGS);
  const oldSize = pageAlignUp(field(plan, row, ROW_ARGS + 1));
  const newSize = pageAlignUp(field(plan, row, ROW_ARGS + 2));
  const flags = field(plan, row, ROW_ARGS + 3);
  const isCopy = oldSize === 0 || (flags & MREMAP_DONTUNMAP) !== 0;
  if (isCopy) munmap(cpu, mm, emulated, newSize);
  else if (emulated !== address) {
    mremap(cpu, mm, emulated, newSize, oldSize, MREMAP_MAYMOVE | MREMAP_FIXED, address);
  } else if (newSize > oldSize) munmap(cpu, mm, address + oldSize, newSize - oldSize);
}
