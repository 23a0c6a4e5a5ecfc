/**
 * An address space with notifiers of the whole of it, which note what they are told, on the test's own thread.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readOnce } from '#memory';

import { EAGAIN } from '../../src/base/errno.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { runPendingWork } from '../../src/deferred/kworker.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { mightSleep } from '../../src/machine/sched.js';
import { allocatedObjects, kfree, kzalloc } from '../../src/machine/slab.js';
import { MmStruct } from '../../src/mm/types.js';
import { mmuIntervalSetSeq } from '../../src/notifier/mmu-interval-notifier.js';
import type { MmuNotifierOps } from '../../src/notifier/mmu-notifier-list.js';
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_NAMES,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import { mmuNotifierRegister } from '../../src/notifier/mmu-notifier-register.js';
import {
  type MmuIntervalNotifier,
  MmuNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../src/notifier/types.js';
import { bootSpace, pageVa } from './address-space.js';

/** What the methods below were told, and how they answer: one test runs at a time. */
export const heard: string[] = [];
const answers = {
  refuses: false,
  odd: 0,
  young: new Set<string>(),
  sleeps: false,
  noMemory: false,
};
const names = new Map<MmuNotifier, string>();

function hear(notifier: MmuNotifier, what: string): void {
  heard.push(`${names.get(notifier) ?? '?'} ${what}`);
}

const eventOf = (cpu: Cpu, range: MmuNotifierRange): string =>
  MMU_NOTIFY_NAMES[read(cpu, range, MmuNotifierRange.event)] ?? '?';

function isYoung(notifier: MmuNotifier, what: string): boolean {
  hear(notifier, what);
  return answers.young.has(names.get(notifier) ?? '?');
}

function release(_cpu: Cpu, notifier: MmuNotifier): void {
  hear(notifier, 'release');
}

const shared = {
  release,
  allocNotifier(cpu: Cpu): MmuNotifier {
    return answers.noMemory ? (0 as MmuNotifier) : kzalloc(cpu, MmuNotifier);
  },
  freeNotifier(cpu: Cpu, notifier: MmuNotifier): void {
    hear(notifier, 'free');
    kfree(cpu, MmuNotifier, notifier);
  },
};

/** Has a start and an end. */
export const pairedOps: MmuNotifierOps = defineOps({
  opsName: 'list paired',
  ...shared,
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange) {
    hear(notifier, `start ${eventOf(cpu, range)}`);
    return answers.odd;
  },
  invalidateRangeEnd(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange) {
    hear(notifier, `end ${eventOf(cpu, range)}`);
  },
});

/** Has a start only, which may refuse, or sleep. */
export const refusingOps: MmuNotifierOps = defineOps({
  opsName: 'list refusing',
  ...shared,
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier) {
    hear(notifier, answers.refuses ? 'refuses' : 'start');
    if (answers.sleeps) mightSleep(cpu);
    return answers.refuses ? -EAGAIN : 0;
  },
});

/** The young ones. */
export const youngOps: MmuNotifierOps = defineOps({
  opsName: 'list young',
  clearFlushYoung: (_cpu: Cpu, notifier: MmuNotifier) => isYoung(notifier, 'clear flush'),
  clearYoung: (_cpu: Cpu, notifier: MmuNotifier) => isYoung(notifier, 'clear'),
  testYoung: (_cpu: Cpu, notifier: MmuNotifier) => isYoung(notifier, 'test'),
});

/** A secondary TLB; `onFlush` is called besides. */
export const secondary = {
  onFlush: undefined as ((cpu: Cpu, start: number, end: number) => void) | undefined,
};
export const secondaryOps: MmuNotifierOps = defineOps({
  opsName: 'list secondary',
  archInvalidateSecondaryTlbs(
    cpu: Cpu,
    notifier: MmuNotifier,
    _mm: MmStruct,
    start: number,
    end: number,
  ) {
    hear(notifier, 'flush');
    secondary.onFlush?.(cpu, start, end);
  },
});

/** Both kinds of invalidation. */
export const mixedOps: MmuNotifierOps = defineOps({
  opsName: 'list mixed',
  ...shared,
  archInvalidateSecondaryTlbs: () => undefined,
  invalidateRangeEnd: () => undefined,
});

/** An interval that notes, too. */
export const notingInterval = defineOps({
  opsName: 'list interval',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number) {
    heard.push(`interval ${eventOf(cpu, range)}`);
    mmuIntervalSetSeq(cpu, interval, seq);
    return true;
  },
});

const MODULE = {
  mixedOps,
  notingInterval,
  pairedOps,
  refusingOps,
  secondaryOps,
  youngOps,
};

/** One address space and its notifiers. */
export class ListWorld {
  readonly cpu: Cpu;
  readonly mm: MmStruct;

  constructor() {
    ({ cpu: this.cpu, mm: this.mm } = bootSpace([MODULE]));
    bootDeferred(this.cpu);
    heard.length = 0;
    names.clear();
    answers.young.clear();
    Object.assign(answers, { refuses: false, odd: 0, sleeps: false, noMemory: false });
    secondary.onFlush = undefined;
  }

  /** From now on notifiers of this name are young. */
  makeYoung(...who: readonly string[]): void {
    for (const name of who) answers.young.add(name);
  }

  /** How the methods answer from now on. */
  answer(how: {
    readonly refuses?: boolean;
    readonly odd?: number;
    readonly sleeps?: boolean;
    readonly noMemory?: boolean;
  }): void {
    Object.assign(answers, how);
  }

  name(notifier: MmuNotifier, name: string): MmuNotifier {
    names.set(notifier, name);
    return notifier;
  }

  /** A notifier of the test's own. */
  register(name: string, ops: MmuNotifierOps): MmuNotifier {
    const notifier = this.name(kzalloc(this.cpu, MmuNotifier), name);
    assert.equal(mmuNotifierRegister(this.cpu, notifier, this.mm, ops), 0);
    return notifier;
  }

  range(page = 0, pages = 1): MmuNotifierRange {
    const { cpu, mm } = this;
    const range = kzalloc(cpu, MmuNotifierRange);
    mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, pageVa(page), pageVa(page + pages));
    return range;
  }

  takeHeard(): string[] {
    return heard.splice(0);
  }

  /** Invalidations that are counted. */
  get active(): number {
    const subscriptions = read(this.cpu, this.mm, MmStruct.subscriptions);
    return read(this.cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges);
  }

  get mmCount(): number {
    return readOnce(this.cpu, this.mm, MmStruct.count);
  }

  get notifiers(): number {
    return allocatedObjects(this.cpu, MmuNotifier);
  }

  get mms(): number {
    return allocatedObjects(this.cpu, MmStruct);
  }

  /** What a kworker would do. */
  work(): void {
    runPendingWork(this.cpu);
  }
}
