/**
 * What the CPUs that run a case share: its address spaces, intervals, files, and the log of callbacks.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { allocWords, freeWords } from '../machine/slab.js';
import {
  address,
  element,
  member,
  NULL,
  pointer,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import { MmuIntervalNotifier, MmuNotifier } from '../notifier/types.js';
import { Completion, initCompletion } from '../sync/completion.js';

/** Where the pages of every case are counted from: a boundary of 1 GiB. */
export const ARENA: Va = 0x2_0000_0000;

/** The address of a page of the arena. */
export function vaOf(page: number): Va {
  return ARENA + page * PAGE_SIZE;
}

/** Processes of a case: p0 to p3. */
export const PROCS_MAX = 4;
/** Intervals, saved sequences and files of a case, by the numbers that it gives them. */
export const IDS_MAX = 256;
/** Devices with memory: dev0 to dev2. */
export const DEVICES = 3;
/** Pages that a case may hold on to. */
export const KEPT_MAX = 4096;
/** CPUs that run a case. */
export const CPUS_OF_CASE_MAX = 16;
/** Callbacks that are logged. */
const EVENTS_MAX = 16_384;

/** Kinds of callbacks in which something can be made to happen. */
export const HOOK_KINDS = ['interval', 'start', 'end', 'release', 'migrate_to_ram'] as const;

/** What is to happen inside the next callback of a kind. */
export const ConformHook = struct('conform_hook', {
  action: word, // index into HOOK_ACTIONS; 0 = none
  event: word, // only for this MMU_NOTIFY_*; -1 = any
  id: word, // only for this interval; -1 = any
  newId: word, // insert: the interval to make
  newStart: address,
  newEnd: address,
});
export type ConformHook = Ptr<'conform_hook'>;

export const HOOK_ACTIONS = ['none', 'pause', 'insert', 'insert_remove', 'fail_nonblock', 'fail'];

/** All that belongs to one case. */
export const ConformWorld = struct('conform_world', {
  events: word, // callbacks logged; atomic
  eventLog: word, // ConformEvent, EVENTS_MAX of them
  mms: words(PROCS_MAX), // the MmStruct of each process, also after its end; 0 = none yet
  alive: words(PROCS_MAX), // the process has not ended
  killed: words(PROCS_MAX), // its threads are to end
  execMm: pointer<'mm_struct'>(), // what an exec has made; 0 = none
  orphan: pointer<'mm_struct'>(), // a child that exits as soon as it runs; 0 = none
  tasks: words(CPUS_OF_CASE_MAX), // TASK_*: what the thread on that CPU does; atomic
  taskProcs: words(CPUS_OF_CASE_MAX), // the process it belongs to
  commands: words(CPUS_OF_CASE_MAX), // number of the step to perform, plus 1; 0 = none; STOP
  intervals: words(IDS_MAX), // ConformInterval
  saved: words(IDS_MAX), // sequences
  files: words(IDS_MAX), // File
  devices: words(DEVICES), // Devmem
  listeners: words(PROCS_MAX), // ConformListener of the list's callbacks
  tlbListeners: words(PROCS_MAX), // … and of secondary TLBs
  hooks: words(HOOK_KINDS.length * ConformHook.words),
  pausedCount: word, // callbacks that are held up; atomic
  paused: Completion, // one more is
  goOn: Completion, // one of them may go on
  keptCount: word, // pages held on to
  kept: words(KEPT_MAX), // frame << 2 | flags they were taken with; 0 = given back
  noiseEnds: word, // the case is over: so are the address spaces beside it
  sd: word, // entries are looked at for their soft-dirty bit
});
export type ConformWorld = Ptr<'conform_world'>;

/** ConformWorld.commands: there is nothing to do any more. */
export const STOP = -1;

/** ConformWorld.tasks: there is no such thread, or it has ended. */
export const TASK_NONE = 0;
/** … it does nothing. */
export const TASK_IDLE = 1;
/** … it performs a step. */
export const TASK_BUSY = 2;

/** An interval of the case; the number is its name. */
export const ConformInterval = struct('conform_interval', {
  interval: MmuIntervalNotifier,
  world: pointer<'conform_world'>(),
  id: word, // -1: it belongs to one operation, and is not logged
});
export type ConformInterval = Ptr<'conform_interval'>;

/** A notifier of one process. */
export const ConformListener = struct('conform_listener', {
  notifier: MmuNotifier,
  world: pointer<'conform_world'>(),
});
export type ConformListener = Ptr<'conform_listener'>;

/** A callback that was logged. */
export const ConformEvent = struct('conform_event', {
  kind: word, // index into EVENT_KINDS
  mm: pointer<'mm_struct'>(),
  id: word, // of the interval, or of the device
  event: word, // MMU_NOTIFY_*; of a device's callback: 1 for a write
  blockable: word,
  seq: word,
  prevSeq: word,
  answer: word, // an error that the callback answered
  owner: word,
  start: address,
  end: address,
});
export type ConformEvent = Ptr<'conform_event'>;

export const EVENT_KINDS = [
  'interval',
  'start',
  'end',
  'release',
  'clear_flush_young',
  'clear_young',
  'test_young',
  'migrate_to_ram',
  'page_free',
  'hook',
  'tlb',
] as const;
export type EventKind = (typeof EVENT_KINDS)[number];

const RESUME = lockClass('conform resume');
const PAUSED = lockClass('conform paused');

/** A world without processes; NULL if memory is out. */
export function makeWorld(cpu: Cpu): ConformWorld {
  const world = allocWords(cpu, ConformWorld.words) as ConformWorld;
  if (world === NULL) return NULL;
  const log = allocWords(cpu, EVENTS_MAX * ConformEvent.words);
  if (log === 0) {
    freeWords(cpu, world, ConformWorld.words);
    return NULL;
  }
  write(cpu, world, ConformWorld.eventLog, log);
  initCompletion(cpu, member(world, ConformWorld.paused), PAUSED);
  initCompletion(cpu, member(world, ConformWorld.goOn), RESUME);
  return world;
}

/** Gives it back. */
export function freeWorld(cpu: Cpu, world: ConformWorld): void {
  freeWords(cpu, read(cpu, world, ConformWorld.eventLog), EVENTS_MAX * ConformEvent.words);
  freeWords(cpu, world, ConformWorld.words);
}

/** Room for one more callback in the log; NULL if it is full. */
export function nextEvent(cpu: Cpu, world: ConformWorld): ConformEvent {
  const index = fetchAdd(cpu, world, ConformWorld.events, 1);
  return index < EVENTS_MAX ? eventAt(cpu, world, index) : NULL;
}

/** True if more callbacks have come than the log has room for: somebody goes round in circles. */
export function isLogFull(cpu: Cpu, world: ConformWorld): boolean {
  return readOnce(cpu, world, ConformWorld.events) >= EVENTS_MAX;
}

/** A callback of the log. */
export function eventAt(cpu: Cpu, world: ConformWorld, index: number): ConformEvent {
  return (read(cpu, world, ConformWorld.eventLog) + index * ConformEvent.words) as ConformEvent;
}

/** How many of `count` callbacks the log has kept. */
export function keptEvents(count: number): number {
  return Math.min(count, EVENTS_MAX);
}

/** The hook of a kind of callback. */
export function hookOf(world: ConformWorld, kind: (typeof HOOK_KINDS)[number]): ConformHook {
  return (world + ConformWorld.hooks + HOOK_KINDS.indexOf(kind) * ConformHook.words) as ConformHook;
}

/** Says that the case looks at soft-dirty bits. */
export function showSoftDirty(cpu: Cpu, world: ConformWorld): void {
  write(cpu, world, ConformWorld.sd, 1);
}

/** The number of a process by its name, that of a thread being its process's; -1 if there can be none. */
export function procOf(name: string): number {
  if (/^t\d$/.test(name)) return 0;
  const number = /^p(\d)$/.test(name) ? Number(name[1]) : PROCS_MAX;
  return number < PROCS_MAX ? number : -1;
}

/** The address space of a process, dead or alive; NULL if there is none. */
export function mmOf(cpu: Cpu, world: ConformWorld, proc: number): MmStruct {
  return read(cpu, world, element(ConformWorld.mms, proc)) as MmStruct;
}

/** True if the process is there and has not ended. */
export function isAlive(cpu: Cpu, world: ConformWorld, proc: number): boolean {
  return read(cpu, world, element(ConformWorld.alive, proc)) !== 0;
}
