/**
 * An interval notifier that writes down what it is told.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readAddress, readOnce } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import type { Va } from '../../src/memory/layout.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalSetSeq,
} from '../../src/notifier/mmu-interval-notifier.js';
import {
  MMU_NOTIFY_NAMES,
  mmuNotifierRangeBlockable,
  VA_MAX,
} from '../../src/notifier/mmu-notifier-range.js';
import { mmSubscriptions } from '../../src/notifier/subscriptions.js';
import {
  MmuIntervalNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../src/notifier/types.js';
import { pageAt, type Space } from './space.js';

/** Events as text, by the interval that was told. */
const logs = new Map<MmuIntervalNotifier, Recorder>();

const recorder = defineOps({
  opsName: 'event-recorder',
  invalidate(
    cpu: Cpu,
    interval: MmuIntervalNotifier,
    range: MmuNotifierRange,
    curSeq: number,
  ): boolean {
    mmuIntervalSetSeq(cpu, interval, curSeq);
    logs.get(interval)?.note(cpu, range);
    return true;
  },
});

/** Records the events of an interval of one address space. */
export class Recorder {
  readonly #space: Space;
  readonly #interval: MmuIntervalNotifier;
  #events: string[] = [];
  /** Called inside each callback. */
  onEvent: () => void = () => undefined;

  /** All of the address space, or some pages of it. */
  constructor(space: Space, start: Va = 0, bytes = 2 ** 48) {
    const { cpu } = space;
    this.#space = space;
    registerOps(cpu, [{ recorder }]);
    this.#interval = kzalloc(cpu, MmuIntervalNotifier);
    logs.set(this.#interval, this);
    const error = mmuIntervalNotifierInsert(cpu, this.#interval, space.mm, start, bytes, recorder);
    assert.equal(error, 0);
  }

  note(cpu: Cpu, range: MmuNotifierRange): void {
    assert.ok(mmuNotifierRangeBlockable(cpu, range));
    const name = MMU_NOTIFY_NAMES[read(cpu, range, MmuNotifierRange.event)] ?? '?';
    const start = readAddress(cpu, range, MmuNotifierRange.start);
    const end = readAddress(cpu, range, MmuNotifierRange.end);
    assert.equal(start % PAGE_SIZE, 0);
    const isAll = start === 0 && end === VA_MAX;
    this.#events.push(`${name} ${isAll ? 'all' : `${pageAt(start)}-${pageAt(end)}`}`);
    this.onEvent();
  }

  /** What was told since the last call; whatever began has ended. */
  take(): string[] {
    const { cpu, mm } = this.#space;
    const subscriptions = mmSubscriptions(cpu, mm);
    const active = MmuNotifierSubscriptions.activeInvalidateRanges;
    assert.equal(read(cpu, subscriptions, active), 0, 'invalidations without an end');
    const seq = readOnce(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
    assert.equal(seq % 2, 0, 'sequence at rest');
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Ends the recording; returns what was told since the last `take`. */
  end(): string[] {
    const events = this.#events;
    const { cpu } = this.#space;
    mmuIntervalNotifierRemove(cpu, this.#interval);
    kfree(cpu, MmuIntervalNotifier, this.#interval);
    logs.delete(this.#interval);
    return events;
  }
}
