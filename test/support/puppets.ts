/**
 * A crew of puppets (test/programs/puppet.ts) and the strings to pull.
 *
 *   await puppets.call(0, 'downRead', sem);            CPU 0 does it, and has done
 *   const writer = puppets.start(1, 'downWrite', sem); CPU 1 is told to
 *   await writer.blocked();                            … and sleeps or spins for it now
 *   await writer.done;                                 … and has got it
 *
 * @module
 */
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';

import { fetchAdd, parkAsync, read, readOnce, unpark, writeOnce } from '#memory';

import { snapshotCpu } from '../../src/debug/wait-graph.js';
import type { Crew, CrewOptions } from '../../src/host/crew.js';
import { bootMachine, type MachineConfig } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { waitKindName } from '../../src/machine/sched.js';
import { WAIT_NONE, WAIT_ROUND, WAIT_START } from '../../src/machine/wait-kind.js';
import { warningTexts } from '../../src/machine/warn.js';
import type { MemoryHandle } from '../../src/memory/port.js';
import { Mailbox, OP_NAMES, type OpName, puppet } from '../programs/puppet.js';
import { makeCrew, programUrl } from './crew.js';
import { place } from './machine.js';

/** One thing that a puppet was told to do. */
export interface Call {
  /** What came of it. */
  readonly done: Promise<number>;
  /** Resolves when the CPU is blocked in it; fails if it is done instead. */
  readonly blocked: () => Promise<void>;
}

const SLICE_MS = 50;
/** A CPU seen so often at a spinlock waits for it; before, it may be on its way to what it will wait for. */
const LASTING_SPINS = 50;
/** What a puppet waits for that does nothing. */
const WAITS_FOR_CALL: ReadonlySet<number> = new Set([WAIT_NONE, WAIT_START, WAIT_ROUND]);

export class Puppets {
  /** The boot CPU, on the test's thread. */
  readonly boot: Cpu;
  readonly crew: Crew;
  /** To attach more CPUs of the machine here. */
  readonly handle: MemoryHandle;
  readonly #mailboxes: readonly Mailbox[];
  readonly #outcome: Promise<unknown>;
  #ended = false;

  /** `config.cpus` is how many CPUs the machine has; `count` of them are puppets. */
  constructor(count: number, config: Partial<MachineConfig> = {}, options: CrewOptions = {}) {
    const machine = bootMachine({ cpus: count, ramBytes: 0, ...config });
    this.boot = machine.cpu;
    this.handle = machine.handle;
    this.#mailboxes = Array.from({ length: count }, () => place(this.boot, Mailbox));
    const members = this.#mailboxes.map((_, id) => ({
      name: `puppet ${id}`,
      module: programUrl('puppet'),
      entry: puppet.name,
      args: this.#mailboxes,
    }));
    this.crew = makeCrew(machine, members, options);
    this.#outcome = this.crew.ready().then(() => {
      this.crew.start();
      return this.crew.results();
    });
    this.#outcome
      .catch(() => undefined) // `stop`, or a call that is never answered, reports it
      .finally(() => {
        this.#ended = true;
      });
  }

  /** Tells a CPU what to do, and does not wait for it. */
  start(id: number, op: OpName, object = 0, argument = 0): Call {
    const mailbox = this.#mailboxes[id]!;
    const { boot } = this;
    const before = readOnce(boot, mailbox, Mailbox.answered);
    assert.equal(readOnce(boot, mailbox, Mailbox.asked), before, `puppet ${id} is busy`);
    writeOnce(boot, mailbox, Mailbox.op, OP_NAMES.indexOf(op));
    writeOnce(boot, mailbox, Mailbox.object, object);
    writeOnce(boot, mailbox, Mailbox.argument, argument);
    fetchAdd(boot, mailbox, Mailbox.asked, 1);
    unpark(boot, mailbox, Mailbox.asked, 1);
    const isDone = (): boolean => readOnce(boot, mailbox, Mailbox.answered) !== before;
    const finish = async (): Promise<number> => {
      while (!isDone()) {
        await parkAsync(boot, mailbox, Mailbox.answered, before, SLICE_MS);
        if (this.#ended) await this.#outcome; // throws what ended the machine
      }
      return read(boot, mailbox, Mailbox.result);
    };
    const done = finish();
    done.catch(() => undefined); // a test that is over awaits no answer
    const blocked = async (): Promise<void> => {
      for (let spins = 0; spins < LASTING_SPINS;) {
        if (this.isBlocked(id)) spins += this.waitOf(id) === 'spinlock' ? 1 : LASTING_SPINS;
        assert.ok(!isDone(), `${op} of puppet ${id} is done, not blocked`);
        if (this.#ended) await this.#outcome;
        await delay(1);
      }
    };
    return { done, blocked };
  }

  /** Tells a CPU what to do, and waits until it has done so. */
  call(id: number, op: OpName, object = 0, argument = 0): Promise<number> {
    return this.start(id, op, object, argument).done;
  }

  /** True if the CPU waits, and not for the next call. */
  isBlocked(id: number): boolean {
    const { waitKind, blocked } = snapshotCpu(this.boot, id);
    return blocked && !WAITS_FOR_CALL.has(waitKind);
  }

  /** What the CPU waits for, in words. */
  waitOf(id: number): string {
    return waitKindName(snapshotCpu(this.boot, id).waitKind);
  }

  /** Ends the machine; it must have come to no harm. */
  async stop(): Promise<void> {
    await Promise.all(this.#mailboxes.map((_, id) => this.call(id, 'quit')));
    await this.#outcome;
    assert.deepEqual(warningTexts(this.boot), []);
  }
}
