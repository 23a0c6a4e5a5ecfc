/**
 * Program of a device thread in a replay: faults over what the programs have mapped, and uses it.
 *
 * It takes one address space after another, chooses a page of what is mapped there by the pattern, maps
 * it and what is present around it into its device, and then loads and stores through the device's page
 * table, which checks that each frame is still the one that was mapped.
 *
 *   random      any page of any mapping, each mapping as likely as any other
 *   sequential  window after window, mapping after mapping
 *   zipf        a few mappings, and the first pages of them, most of the time
 *
 * @module
 */
import { clockMs, read, readAddress, readOnce, write, writeAddress } from '#memory';

import { PAGE_SIZE } from '../../base/units.js';
import { pick, seedFor, xorshift } from '../../base/xorshift.js';
import { driverOf, pickContext, putContext } from '../../drivers/svm/device.js';
import {
  attachEngine,
  ENGINE_LOAD,
  ENGINE_STORE,
  initEngine,
  tryEngineAccess,
} from '../../drivers/svm/engine.js';
import { SvmContext, type SvmDevice, type SvmEngine, SvmRequest } from '../../drivers/svm/types.js';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HmmRange } from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { freeFrameCount } from '../../machine/page-alloc.js';
import { noteProgress } from '../../machine/sched.js';
import { MACHINE, Machine } from '../../machine/types.js';
import { type Field, member, NULL, type Ptr } from '../../memory/layout.js';
import { mmput } from '../../mm/exit.js';
import { mmgetNotZero } from '../../mm/mm-struct.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { MmStruct, VM_READ, VM_WRITE, VmAreaStruct, VmaTree } from '../../mm/types.js';
import { pagesIn, vmaEnd, vmaStart } from '../../mm/vma.js';
import { vmaTreeFirst } from '../../mm/vma-tree.js';
import { histogramRecord, NS_PER_MS } from '../histogram.js';
import { ReplayResult, ReplayState } from './replay-state.js';

/** Where devices fault in a replay. */
export const PATTERNS = ['random', 'sequential', 'zipf'] as const;
/** One of PATTERNS. */
export type Pattern = (typeof PATTERNS)[number];

/** Pages that a fault looks at. */
export const REPLAY_WINDOW_PAGES = 16;
/** Accesses through the device's page table after each fault. */
const ACCESSES = 8;
/** Mappings that are looked at before a thread gives up finding one it may read. */
const TRIES = 8;

export interface ReplayDeviceArgs {
  readonly state: ReplayState;
  readonly result: ReplayResult;
  readonly device: SvmDevice;
  readonly engine: SvmEngine;
  readonly request: SvmRequest;
  readonly pattern: Pattern;
  readonly seed: number;
}

/** Where a thread is, for the sequential pattern; and its random numbers. */
interface Cursor {
  random: number;
  mapping: number;
  page: number;
}

/** The program. */
export function replayDevice(cpu: Cpu, args: ReplayDeviceArgs): void {
  initEngine(cpu, args.engine);
  const cursor: Cursor = { random: seedFor(args.seed, cpu.id), mapping: 0, page: 0 };
  let rounds = 0;
  while (readOnce(cpu, args.state, ReplayState.devicesStop) === 0) {
    cursor.random = xorshift(cursor.random);
    const context = pickContext(cpu, args.device, cursor.random >>> 1);
    if (context !== NULL) {
      useContext(cpu, args, context, cursor);
      putContext(cpu, context);
    }
    noteProgress(cpu, ++rounds);
  }
}

/** One fault in the context, and accesses to what it mapped. */
function useContext(cpu: Cpu, args: ReplayDeviceArgs, context: SvmContext, cursor: Cursor): void {
  const mm = read(cpu, context, SvmContext.mm);
  if (!mmgetNotZero(cpu, mm)) return;
  if (choosePages(cpu, mm, args, cursor)) fault(cpu, args, context, cursor);
  mmput(cpu, mm);
}

function fault(cpu: Cpu, args: ReplayDeviceArgs, context: SvmContext, cursor: Cursor): void {
  const { request, result } = args;
  const range = member(request, SvmRequest.range);
  write(cpu, range, HmmRange.notifier, member(context, SvmContext.interval));
  const before = clockMs(cpu);
  const error = driverOf(cpu, args.device).fault(cpu, context, request);
  const latencies = member(result, ReplayResult.latencies);
  histogramRecord(cpu, latencies, (clockMs(cpu) - before) * NS_PER_MS);
  const counter = error === 0 ? ReplayResult.faults : ReplayResult.refused;
  write(cpu, result, counter, read(cpu, result, counter) + 1);
  attachEngine(cpu, context);
  const start = readAddress(cpu, range, HmmRange.start);
  const pages = pagesIn(start, readAddress(cpu, range, HmmRange.end));
  let done = 0;
  for (let i = 0; i < ACCESSES; i++) {
    cursor.random = xorshift(cursor.random);
    const va = start + pick(cursor.random, pages) * PAGE_SIZE;
    const kind = (cursor.random & 0x10000) === 0 ? ENGINE_LOAD : ENGINE_STORE;
    if (tryEngineAccess(cpu, context, va, kind, cursor.random)) done++;
  }
  write(cpu, result, ReplayResult.accesses, read(cpu, result, ReplayResult.accesses) + done);
}

/** Fills the request in with pages of one mapping; false if none was found that may be read. Sleeps. */
function choosePages(cpu: Cpu, mm: MmStruct, args: ReplayDeviceArgs, cursor: Cursor): boolean {
  let found = false;
  mmapReadLock(cpu, mm);
  for (let i = 0; i < TRIES && !found; i++) {
    const vma = chooseMapping(cpu, mm, args.pattern, cursor);
    if (vma === NULL) break;
    found = (read(cpu, vma, VmAreaStruct.flags) & VM_READ) !== 0;
    if (found) chooseWindow(cpu, vma, args, cursor);
    else cursor.page = Number.MAX_SAFE_INTEGER; // on to the next mapping
  }
  mmapReadUnlock(cpu, mm);
  return found;
}

/** A number below `bound`: any, or by Zipf's law a small one most of the time. */
function rank(cursor: Cursor, bound: number, isZipf: boolean): number {
  cursor.random = xorshift(cursor.random);
  const share = (cursor.random & 0x7fffffff) / 0x80000000;
  return Math.floor(isZipf ? bound ** share - 1 : share * bound);
}

function chooseMapping(cpu: Cpu, mm: MmStruct, pattern: Pattern, cursor: Cursor): VmAreaStruct {
  const tree = member(mm, MmStruct.vmas);
  const count = read(cpu, tree, VmaTree.count);
  if (count === 0) return NULL;
  let index = rank(cursor, count, pattern === 'zipf');
  if (pattern === 'sequential') {
    if (cursor.page === Number.MAX_SAFE_INTEGER) {
      cursor.mapping++;
      cursor.page = 0;
    }
    index = cursor.mapping % count;
  }
  let vma = vmaTreeFirst(cpu, tree);
  for (let i = 0; i < index; i++) vma = read(cpu, vma, VmAreaStruct.next);
  return vma;
}

/** Asks for one page of the mapping, and for whatever else of its window is there. */
function chooseWindow(cpu: Cpu, vma: VmAreaStruct, args: ReplayDeviceArgs, cursor: Cursor): void {
  const start = vmaStart(cpu, vma);
  const end = vmaEnd(cpu, vma);
  const pages = pagesIn(start, end);
  let page = rank(cursor, pages, args.pattern === 'zipf');
  if (args.pattern === 'sequential') {
    page = cursor.page % pages;
    const next = cursor.page + REPLAY_WINDOW_PAGES;
    cursor.page = next < pages ? next : Number.MAX_SAFE_INTEGER;
  }
  const bytes = REPLAY_WINDOW_PAGES * PAGE_SIZE;
  const va = start + page * PAGE_SIZE;
  const from = Math.max(start, Math.floor(va / bytes) * bytes);
  const to = Math.min(end, Math.floor(va / bytes) * bytes + bytes);
  const range = member(args.request, SvmRequest.range);
  writeAddress(cpu, range, HmmRange.start, from);
  writeAddress(cpu, range, HmmRange.end, to);
  const mayWrite = (read(cpu, vma, VmAreaStruct.flags) & VM_WRITE) !== 0;
  const wants = mayWrite && (cursor.random & 0x100) !== 0 ? HMM_PFN_REQ_WRITE : 0;
  const requests = read(cpu, args.request, SvmRequest.requests) as RequestArray;
  for (let i = 0; i < REPLAY_WINDOW_PAGES; i++) write(cpu, requests, i as RequestField, 0);
  if (isMemoryTight(cpu)) return; // takes what is there: the programs' calls must not fail for our sake
  write(cpu, requests, pagesIn(from, va) as RequestField, HMM_PFN_REQ_FAULT | wants);
}
type RequestArray = Ptr<'svm_requests'>;
type RequestField = Field<'svm_requests'>;

/** True if less than a quarter of memory is free. */
function isMemoryTight(cpu: Cpu): boolean {
  return freeFrameCount(cpu) * 4 < read(cpu, MACHINE, Machine.frameCount);
}
