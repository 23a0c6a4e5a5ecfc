/**
 * Runs cases that were recorded on a real Linux 6.12 on an emulated address space, step by step, on one
 * CPU, and lists what differs.
 *
 * A step names an operation and what Linux answered: its result, the callbacks of interval notifiers in
 * order, and a snapshot of the pages. Addresses are pages relative to an arena.
 *
 * @module
 */
import { PAGE_SIZE } from '../../src/base/units.js';
import { hmmRangeFault } from '../../src/hmm/range-fault.js';
import {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  HmmPfn,
  HmmRange,
} from '../../src/hmm/types.js';
import { bootMachine } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { frameWord } from '../../src/machine/frame.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import {
  frameOf,
  pageOf,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  ZERO_PFN,
} from '../../src/machine/page-alloc.js';
import { allocWords, kzalloc } from '../../src/machine/slab.js';
import { Page } from '../../src/machine/types.js';
import { NULL } from '../../src/memory/layout.js';
import {
  read,
  readAddress,
  readOnce,
  readOnceCells,
  write,
  writeAddress,
} from '../../src/memory/memory.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { createFile, fileGetPage } from '../../src/mm/file.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { mlock, msync, munlock } from '../../src/mm/mlock.js';
import { mmAlloc, setBrk, useMm } from '../../src/mm/mm-struct.js';
import { brk, mmap } from '../../src/mm/mmap.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { mremap } from '../../src/mm/mremap.js';
import { munmap } from '../../src/mm/munmap.js';
import { putPage } from '../../src/mm/page.js';
import { pteOf } from '../../src/mm/page-table.js';
import { NO_PTE, Pte, PTE_PRESENT, PTE_PROTNONE, ptePfn } from '../../src/mm/pte.js';
import { type File, MmStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import {
  mmuIntervalCheckRetry,
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../src/notifier/mmu-interval-notifier.js';
import {
  MMU_NOTIFY_NAMES,
  mmuNotifierRangeBlockable,
  VA_MAX,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuIntervalNotifier, MmuNotifierRange } from '../../src/notifier/types.js';

/** What a recorded step holds, as far as it is used here. */
export type Step = Readonly<Record<string, unknown>> & {
  readonly op: string;
  readonly result: number;
  readonly events: readonly Readonly<Record<string, unknown>>[];
  readonly snapshot?: Readonly<Record<string, readonly Readonly<Record<string, unknown>>[]>>;
};
export interface RecordedCase {
  readonly name: string;
  readonly category: string;
  readonly pages: number;
  readonly steps: readonly Step[];
}

const BASE = 0x200000000;
const VA = (page: number): number => BASE + page * PAGE_SIZE;

/** Operations this runner knows. */
export const KNOWN_OPS: ReadonlySet<string> = new Set([
  'attach',
  'detach',
  'brk',
  'close',
  'exit',
  'fork',
  'hmm_range_fault',
  'interval_insert',
  'interval_remove',
  'interval_seq',
  'madvise',
  'memfd',
  'mlock',
  'mmap',
  'mprotect',
  'mremap',
  'msync',
  'munlock',
  'munmap',
  'pwrite',
  'read_begin',
  'read_retry',
  'touch',
]);

interface Logged {
  readonly id: number;
  readonly proc: string;
  readonly event: string;
  readonly start: number | null;
  readonly end: number | null;
  readonly blockable: boolean;
  readonly seq: number;
  readonly prevSeq: number;
}

/** The world that the callback below belongs to: one case runs at a time. */
let running: World | undefined;

const recorder = defineOps({
  opsName: 'recorder',
  invalidate(
    cpu: Cpu,
    interval: MmuIntervalNotifier,
    range: MmuNotifierRange,
    curSeq: number,
  ): boolean {
    running?.log(interval, range, curSeq);
    mmuIntervalSetSeq(cpu, interval, curSeq);
    return true;
  },
});

const pageOr = (va: number, open: number): number | null =>
  va === open ? null : (va - BASE) / PAGE_SIZE;

class World {
  readonly cpu: Cpu;
  readonly #mms = new Map<string, MmStruct>();
  readonly #files = new Map<number, File>();
  readonly #intervals = new Map<number, MmuIntervalNotifier>();
  readonly #idOf = new Map<number, number>();
  readonly #saved = new Map<number, number>();
  readonly #gone = new Set<number>();
  readonly #pages: number;
  events: Logged[] = [];

  constructor(pages: number) {
    const machine = bootMachine({ cpus: 1, ramBytes: 32 << 20 });
    this.cpu = machine.cpu;
    bootMm(this.cpu);
    registerOps(this.cpu, [{ recorder }]);
    this.#mms.set('p0', mmAlloc(this.cpu));
    useMm(this.cpu, this.#mm('p0'));
    this.#pages = pages;
  }

  log(interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number): void {
    const id = this.#idOf.get(interval);
    if (id === undefined) return;
    const { cpu } = this;
    const mm = read(cpu, range, MmuNotifierRange.mm);
    const proc = [...this.#mms].find(([, one]) => one === mm)?.[0] ?? '?';
    this.events.push({
      id,
      proc,
      event: MMU_NOTIFY_NAMES[read(cpu, range, MmuNotifierRange.event)] ?? '?',
      start: pageOr(readAddress(cpu, range, MmuNotifierRange.start), 0),
      end: pageOr(readAddress(cpu, range, MmuNotifierRange.end), VA_MAX),
      blockable: mmuNotifierRangeBlockable(cpu, range),
      seq,
      prevSeq: readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq),
    });
  }

  #mm(proc: unknown): MmStruct {
    const mm = this.#mms.get((proc as string | undefined) ?? 'p0');
    if (mm === undefined) throw new Error(`no process ${String(proc)}`);
    return mm;
  }

  /** Performs a step; what it answers, by the names of the recording. */
  perform(step: Step): Record<string, unknown> {
    const { cpu } = this;
    const mm = this.#mm(step['proc']);
    const at = VA(Number(step['at'] ?? 0)) + Number(step['boff'] ?? 0);
    const length = Number(step['n'] ?? 0) * PAGE_SIZE + Number(step['blen'] ?? 0);
    const needsUsers = step.op === 'hmm_range_fault' || step.op === 'interval_insert';
    if (needsUsers && this.#gone.has(mm)) return { result: -3 }; // the recorder's own: no such process
    switch (step.op) {
      case 'attach':
      case 'detach':
      case 'close':
        return { result: 0 };
      case 'mmap':
        return { result: this.#mmap(mm, step, at, length) };
      case 'munmap':
        return { result: munmap(cpu, mm, at, length) };
      case 'mprotect':
        return { result: mprotect(cpu, mm, at, length, prot(step['prot'])) };
      case 'madvise':
        return { result: madvise(cpu, mm, at, length, advice(step['advice'])) };
      case 'mremap':
        return { result: this.#mremap(mm, step, at, length) };
      case 'mlock':
        return { result: mlock(cpu, mm, at, length, 0) };
      case 'munlock':
        return { result: munlock(cpu, mm, at, length) };
      case 'msync':
        return { result: msync(cpu, mm, at, length, uapi.MS_SYNC) };
      case 'brk':
        return { result: this.#brk(mm, length) };
      case 'touch':
        return this.#touch(mm, step);
      case 'memfd':
        this.#files.set(Number(step['fd']), createFile(cpu, length, 0));
        return { result: 0 };
      case 'pwrite':
        return { result: this.#pwrite(step) };
      case 'fork': {
        const child = dupMm(cpu, mm);
        this.#mms.set(String(step['child']), child);
        useMm(cpu, child);
        return { result: child === NULL ? -12 : 0 };
      }
      case 'exit':
        mmput(cpu, mm);
        this.#gone.add(mm);
        return { result: 0 };
      case 'interval_insert':
        return this.#insert(mm, step, at, length);
      case 'interval_remove':
        if (!this.#intervals.has(Number(step['id']))) return { result: -2 };
        mmuIntervalNotifierRemove(cpu, this.#interval(step));
        this.#intervals.delete(Number(step['id']));
        return { result: 0 };
      case 'interval_seq':
        return {
          result: 0,
          seq: readOnce(cpu, this.#interval(step), MmuIntervalNotifier.invalidateSeq),
        };
      case 'read_begin': {
        const seq = mmuIntervalReadBegin(cpu, this.#interval(step));
        this.#saved.set(Number(step['save']), seq);
        return { result: 0, seq };
      }
      case 'read_retry': {
        const seq = this.#saved.get(Number(step['save'])) ?? 0;
        const interval = this.#interval(step);
        const checkRetry = mmuIntervalCheckRetry(cpu, interval, seq) ? 1 : 0;
        const retry = mmuIntervalReadRetry(cpu, interval, seq) ? 1 : 0;
        return {
          result: 0,
          retry: typeof step['retry'] === 'boolean' ? retry === 1 : retry,
          checkRetry: typeof step['checkRetry'] === 'boolean' ? checkRetry === 1 : checkRetry,
        };
      }
      case 'hmm_range_fault':
        return this.#hmmRangeFault(mm, step, at, length);
      default:
        throw new Error(`unknown operation ${step.op}`);
    }
  }

  #interval(step: Step): MmuIntervalNotifier {
    const interval = this.#intervals.get(Number(step['id']));
    if (interval === undefined) throw new Error(`no interval ${String(step['id'])}`);
    return interval;
  }

  #mmap(mm: MmStruct, step: Step, at: number, length: number): number {
    const words = String(step['flags']).split(',');
    let flags = words.includes('shared') ? uapi.MAP_SHARED : uapi.MAP_PRIVATE;
    flags |= words.includes('replace') ? uapi.MAP_FIXED : uapi.MAP_FIXED_NOREPLACE;
    if (words.includes('anon')) flags |= uapi.MAP_ANONYMOUS;
    if (words.includes('populate')) flags |= uapi.MAP_POPULATE;
    if (words.includes('locked')) flags |= uapi.MAP_LOCKED;
    if (words.includes('growsdown')) flags |= uapi.MAP_GROWSDOWN;
    const file = step['fd'] === undefined ? NULL : (this.#files.get(Number(step['fd'])) ?? NULL);
    const offset = Number(step['off'] ?? 0) * PAGE_SIZE;
    const result = mmap(this.cpu, mm, at, length, prot(step['prot']), flags, file, offset);
    return result < 0 ? result : (result - BASE) / PAGE_SIZE;
  }

  #mremap(mm: MmStruct, step: Step, at: number, length: number): number {
    const words = String(step['flags']).split(',');
    let flags = 0;
    if (words.includes('maymove')) flags |= uapi.MREMAP_MAYMOVE;
    if (words.includes('fixed')) flags |= uapi.MREMAP_FIXED | uapi.MREMAP_MAYMOVE;
    if (words.includes('dontunmap')) flags |= uapi.MREMAP_DONTUNMAP | uapi.MREMAP_MAYMOVE;
    const to = VA(Number(step['to'] ?? 0));
    const result = mremap(this.cpu, mm, at, length, Number(step['newn']) * PAGE_SIZE, flags, to);
    return result < 0 ? result : (result - BASE) / PAGE_SIZE;
  }

  #brk(mm: MmStruct, length: number): number {
    const { cpu } = this;
    if (readAddress(cpu, mm, MmStruct.startBrk) !== BASE) setBrk(cpu, mm, BASE);
    return brk(cpu, mm, BASE + length) === BASE + length ? 0 : -12;
  }

  #touch(mm: MmStruct, step: Step): Record<string, unknown> {
    const first = Number(step['at']);
    const values: [number, number][] = [];
    for (let page = first; page < first + Number(step['n']); page++) {
      const isWrite = step['mode'] === 'w';
      const error = isWrite
        ? storeWord(this.cpu, mm, VA(page), Number(step['val']))
        : loadWord(this.cpu, mm, VA(page));
      if (error !== 0) return { result: error, signalPage: page };
      if (isWrite) continue;
      const last = values.at(-1);
      if (last?.[1] === this.cpu.loaded) last[0]++;
      else values.push([1, this.cpu.loaded]);
    }
    return { result: 0, ...(step['mode'] === 'r' && { values }) };
  }

  #pwrite(step: Step): number {
    const file = this.#files.get(Number(step['fd'])) ?? NULL;
    for (let i = 0; i < Number(step['n']); i++) {
      const pfn = fileGetPage(this.cpu, file, Number(step['off']) + i);
      write(this.cpu, frameOf(this.cpu, pfn), frameWord(0), Number(step['val']));
      putPage(this.cpu, pfn);
    }
    return 0;
  }

  #insert(mm: MmStruct, step: Step, at: number, length: number): Record<string, unknown> {
    const interval = kzalloc(this.cpu, MmuIntervalNotifier);
    const span = step['range'];
    const start = span === 'all' ? 0 : at;
    const bytes = span === 'all' ? 2 ** 48 : span === 'overflow' ? 2 ** 64 : length;
    const result = mmuIntervalNotifierInsert(this.cpu, interval, mm, start, bytes, recorder);
    if (result !== 0) return { result };
    this.#intervals.set(Number(step['id']), interval);
    this.#idOf.set(interval, Number(step['id']));
    return { result, seq: readOnce(this.cpu, interval, MmuIntervalNotifier.invalidateSeq) };
  }

  #hmmRangeFault(mm: MmStruct, step: Step, at: number, length: number): Record<string, unknown> {
    const { cpu } = this;
    const pages = length / PAGE_SIZE;
    const own = step['id'] === undefined ? kzalloc(cpu, MmuIntervalNotifier) : this.#interval(step);
    if (step['id'] === undefined) mmuIntervalNotifierInsert(cpu, own, mm, at, length, recorder);
    const range = kzalloc(cpu, HmmRange);
    const pfns = allocWords(cpu, pages * HmmPfn.words);
    writeAddress(cpu, range, HmmRange.start, at);
    writeAddress(cpu, range, HmmRange.end, at + length);
    write(cpu, range, HmmRange.notifier, own);
    write(cpu, range, HmmRange.pfns, pfns);
    write(cpu, range, HmmRange.defaultFlags, request(String(step['req'])));
    const masks: Record<string, number> = { none: 0, read: HMM_PFN_REQ_FAULT };
    const mask = masks[String(step['mask'])] ?? HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
    write(cpu, range, HmmRange.pfnFlagsMask, mask);
    const per = (step['per'] as string | undefined) ?? '';
    let tries = 0;
    let result = 0;
    let retry: boolean | undefined;
    for (;;) {
      tries++;
      for (let i = 0; i < pages; i++) {
        const wanted =
          { r: HMM_PFN_REQ_FAULT, w: HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE }[per[i] ?? ''] ?? 0;
        write(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry, wanted);
      }
      const saved =
        step['useSeq'] === undefined ? undefined : this.#saved.get(Number(step['useSeq']));
      const seq = saved ?? mmuIntervalReadBegin(cpu, own);
      write(cpu, range, HmmRange.notifierSeq, seq);
      mmapReadLock(cpu, mm);
      result = hmmRangeFault(cpu, range);
      mmapReadUnlock(cpu, mm);
      if (saved !== undefined) {
        retry = mmuIntervalReadRetry(cpu, own, seq);
        break;
      }
      if (result === -16 || (result === 0 && mmuIntervalReadRetry(cpu, own, seq))) continue;
      break;
    }
    const out = Array.from({ length: pages }, (_, i) =>
      hmmLetters(read(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry)),
    );
    if (step['id'] === undefined) mmuIntervalNotifierRemove(cpu, own);
    return {
      result,
      tries,
      ...(retry !== undefined && { retry }),
      ...(result === 0 && { hmm: out }),
    };
  }

  /** The pages of the window as a recording states them: hmm flags, entry, kind, contents. */
  snapshot(proc: string): Record<string, unknown>[] {
    const { cpu } = this;
    const mm = this.#mm(proc);
    const hmm = this.#hmmRangeFault(
      mm,
      { op: '', result: 0, events: [], req: 'snapshot' },
      BASE,
      this.#pages * PAGE_SIZE,
    )['hmm'] as string[];
    return Array.from({ length: this.#pages }, (_, page) => {
      const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), VA(page));
      const copy = cpu.scratch as Pte;
      if (pte !== NO_PTE) readOnceCells(cpu, copy, pte, 1);
      const entry = pte === NO_PTE ? 0 : read(cpu, copy, Pte.entry);
      const isPresent = (entry & (PTE_PRESENT | PTE_PROTNONE)) !== 0;
      if (!isPresent) return { hmm: hmm[page], pte: 'none' };
      const pfn = ptePfn(entry);
      const flags = read(cpu, pageOf(cpu, pfn), Page.flags);
      const kind = pfn === ZERO_PFN ? 'zero' : (flags & PG_ANON) !== 0 ? 'anon' : 'file';
      const isUsable = hmm[page]?.startsWith('V') === true;
      return {
        hmm: hmm[page],
        pte: 'present',
        ...(isUsable && { page: kind, val: read(cpu, frameOf(cpu, pfn), frameWord(0)) }),
        excl: (flags & PG_ANON_EXCLUSIVE) !== 0,
      };
    });
  }

  get processes(): string[] {
    return [...this.#mms].filter(([, mm]) => !this.#gone.has(mm)).map(([name]) => name);
  }
}

function hmmLetters(entry: number): string {
  if ((entry & HMM_PFN_ERROR) !== 0) return 'E';
  if ((entry & HMM_PFN_VALID) === 0) return '-';
  return (entry & HMM_PFN_WRITE) !== 0 ? 'VW' : 'V';
}

function request(name: string): number {
  const requests: Record<string, number> = {
    snapshot: 0,
    read: HMM_PFN_REQ_FAULT,
    write: HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
    writeonly: HMM_PFN_REQ_WRITE,
  };
  return requests[name] ?? 0;
}

function prot(text: unknown): number {
  const letters = String(text);
  if (letters === 'none') return 0;
  return (
    (letters.includes('r') ? uapi.PROT_READ : 0) |
    (letters.includes('w') ? uapi.PROT_WRITE : 0) |
    (letters.includes('x') ? uapi.PROT_EXEC : 0)
  );
}

function advice(name: unknown): number {
  return (uapi as unknown as Record<string, number>)[`MADV_${String(name)}`] ?? -1;
}

/** Runs a case; one line for each difference, in order. */
export function differencesOf(recorded: RecordedCase): string[] {
  const differences: string[] = [];
  const now = new World(recorded.pages);
  running = now;
  recorded.steps.forEach((step, index) => {
    const note = (field: string, expected: unknown, actual: unknown): void => {
      const [want, got] = [JSON.stringify(expected), JSON.stringify(actual)];
      if (want !== got)
        differences.push(`step ${index} ${step.op} ${field}: Linux ${want}, here ${got}`);
    };
    now.events = [];
    const answer = now.perform(step);
    for (const field of ['result', 'seq', 'tries', 'retry', 'checkRetry', 'values', 'signalPage']) {
      if (field in step) note(field, step[field], answer[field]);
    }
    if (step.op === 'hmm_range_fault' && Array.isArray(step['pages'])) {
      note('pages', expand(step['pages'], 'hmm'), answer['hmm']);
    }
    note(
      'events',
      step.events.filter(({ kind }) => kind === 'interval').map(normalEvent),
      now.events.map((event) => normalEvent({ ...event })),
    );
    for (const [proc, runs] of Object.entries(step.snapshot ?? {})) {
      if (!now.processes.includes(proc)) continue;
      const here = now.snapshot(proc);
      for (const field of ['hmm', 'pte', 'page', 'val']) {
        note(
          `snapshot ${proc} ${field}`,
          expand(runs, field),
          here.map((page) => page[field] ?? null),
        );
      }
    }
  });
  return differences;
}

function normalEvent(event: Readonly<Record<string, unknown>>): unknown {
  const { id, event: name, start, end, blockable, seq, prevSeq } = event;
  return [id, event['proc'] ?? 'p0', name, start ?? null, end ?? null, blockable, seq, prevSeq];
}

function expand(runs: readonly Readonly<Record<string, unknown>>[], field: string): unknown[] {
  return runs.flatMap((run) => Array.from({ length: Number(run['n']) }, () => run[field] ?? null));
}
