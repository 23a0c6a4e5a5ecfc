import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { noteBegun, noteEnded } from '../../src/debug/begun.js';
import { pushHeld } from '../../src/debug/held-locks.js';
import {
  blockersOf,
  describeCpu,
  findCycle,
  snapshotCpu,
  snapshotCpus,
} from '../../src/debug/wait-graph.js';
import { archSpinLock, archSpinUnlock } from '../../src/machine/arch-spinlock.js';
import { attachCpu } from '../../src/machine/boot.js';
import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import {
  beginWait,
  endWait,
  setCurrentRunning,
  setCurrentState,
  TASK_UNINTERRUPTIBLE,
  wakeUpProcess,
} from '../../src/machine/sched.js';
import { BEGUN_MAX } from '../../src/machine/types.js';
import {
  WAIT_COMPLETION,
  WAIT_INVALIDATION,
  WAIT_MUTEX,
  WAIT_NONE,
  WAIT_RWSEM_READ,
  WAIT_SHOOTDOWN,
  WAIT_SPINLOCK,
} from '../../src/machine/wait-kind.js';
import { member } from '../../src/memory/layout.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../src/sync/mutex.js';
import { initSpinlock, Spinlock } from '../../src/sync/spinlock.js';
import { bootCpus, place } from '../support/machine.js';
import { Puppets } from '../support/puppets.js';

const ALPHA = lockClass('graph->alpha');
const BETA = lockClass('graph->beta');

function newLock(cpu: Cpu, name = ALPHA): Spinlock {
  const lock = place(cpu, Spinlock);
  initSpinlock(cpu, lock, name);
  return lock;
}

/** Records that a CPU sleeps for a lock. */
function sleepFor(cpu: Cpu, kind: number, lock: number): void {
  beginWait(cpu, kind, lock);
  setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
}

/** The numbers of the CPUs of the cycle, from the smallest on. */
function cycleOf(cpu: Cpu): number[] | undefined {
  const cycle = findCycle(snapshotCpus(cpu))?.map((snapshot) => snapshot.cpu);
  if (!cycle) return undefined;
  const start = cycle.indexOf(Math.min(...cycle));
  return [...cycle.slice(start), ...cycle.slice(0, start)];
}

describe('what a CPU has begun', () => {
  test('is waited for until it has ended it, once for each time', () => {
    const [cpu, other] = bootCpus(2);
    const what = newLock(cpu!, ALPHA);
    sleepFor(cpu!, WAIT_INVALIDATION, what);
    const blockers = (): number[] => {
      const all = snapshotCpus(cpu!);
      return blockersOf(all[0]!, all);
    };
    assert.deepEqual(blockers(), []);
    for (let i = 0; i < 2; i++) noteBegun(other!, what);
    noteEnded(other!, what);
    assert.deepEqual(blockers(), [1]);
    const all = snapshotCpus(cpu!).map((one) => ({ ...one, finished: one.cpu === 1 }));
    assert.deepEqual(
      all.map((one) => describeCpu(cpu!, one, all)),
      [
        'waits for end of graph->alpha, begun by cpu 1 (has ended)',
        'has ended; has not ended graph->alpha',
      ],
    );
    noteEnded(other!, what);
    noteEnded(other!, what);
    assert.deepEqual(blockers(), [], 'and an end of nothing is none');
  });

  test('is forgotten where there is too much of it', () => {
    const [cpu] = bootCpus(1);
    for (let i = 0; i < BEGUN_MAX + 1; i++) noteBegun(cpu!, newLock(cpu!, ALPHA));
    assert.equal(snapshotCpu(cpu!, 0).begun.length, BEGUN_MAX);
  });
});

describe('waits are recorded like a stack', () => {
  test('the innermost is shown, and the one around it again after that', () => {
    const [cpu] = bootCpus(1);
    const waits: [number, number][] = [
      [WAIT_COMPLETION, 100],
      [WAIT_MUTEX, 200],
      [WAIT_SPINLOCK, 300],
    ];
    const serials = new Set<number>();
    const look = (expected: [number, number] | undefined): void => {
      const { waitKind, waitObject, waitSerial } = snapshotCpu(cpu!, 0);
      if (expected) assert.deepEqual([waitKind, waitObject], expected);
      else assert.equal(waitKind, WAIT_NONE);
      assert.ok(!expected || !serials.has(waitSerial), 'an observer sees that it moved');
      serials.add(waitSerial);
    };
    look(undefined);
    for (const wait of waits) {
      beginWait(cpu!, ...wait);
      look(wait);
    }
    for (const wait of [waits[1], waits[0], undefined]) {
      endWait(cpu!);
      look(wait);
    }
  });

  const puppets = new Puppets(1, { cpus: 2 });
  after(() => puppets.stop());

  test('a sleeper that had to wait for the spinlock of its queue is still seen to sleep', async () => {
    const { boot } = puppets;
    const here = attachCpu(puppets.handle, 1);
    const lock = place(boot, Mutex);
    initMutex(boot, lock, ALPHA);
    mutexLock(here, lock);
    const waiter = puppets.start(0, 'mutexLock', lock);
    await waiter.blocked();
    archSpinLock(here, member(lock, Mutex.waitLock));
    wakeUpProcess(here, cpuArea(0)); // for nothing: it goes for the spinlock, and has to halt
    while (puppets.waitOf(0) !== 'spinlock') await delay(1);
    archSpinUnlock(here, member(lock, Mutex.waitLock));
    while (puppets.waitOf(0) === 'spinlock') await delay(1);
    await waiter.blocked();
    assert.equal(puppets.waitOf(0), 'mutex');
    assert.equal(snapshotCpu(boot, 0).waitObject, lock);
    mutexUnlock(here, lock);
    await waiter.done;
    await puppets.call(0, 'mutexUnlock', lock);
  });
});

describe('a cycle of waits', () => {
  test('is none if somebody in it can go on', () => {
    const [a, b, c] = bootCpus(3);
    const [first, second] = [newLock(a!), newLock(a!)];
    pushHeld(a!, first);
    pushHeld(b!, second);
    assert.equal(cycleOf(a!), undefined, 'nobody waits');
    sleepFor(a!, WAIT_MUTEX, second);
    assert.equal(cycleOf(a!), undefined, 'b runs');
    sleepFor(c!, WAIT_MUTEX, first);
    assert.equal(cycleOf(a!), undefined, 'c waits for a, and nobody for c');
  });

  test('is found for two, for three, and for one', () => {
    for (const count of [1, 2, 3]) {
      const cpus = bootCpus(4);
      const locks = cpus.map((cpu) => newLock(cpu));
      for (let i = 0; i < count; i++) pushHeld(cpus[i]!, locks[i]!);
      for (let i = 0; i < count; i++) sleepFor(cpus[i]!, WAIT_MUTEX, locks[(i + 1) % count]!);
      sleepFor(cpus[3]!, WAIT_MUTEX, locks[0]!); // waits for the cycle, is not in it
      assert.deepEqual(
        cycleOf(cpus[0]!),
        Array.from({ length: count }, (_, i) => i),
      );
    }
  });

  test('goes through any of several readers, and through a shootdown', () => {
    const [a, b, c] = bootCpus(3);
    const [sem, lock] = [newLock(a!), newLock(a!)];
    pushHeld(a!, sem);
    pushHeld(b!, sem);
    pushHeld(c!, lock);
    sleepFor(c!, WAIT_RWSEM_READ, sem);
    assert.deepEqual(blockersOf(snapshotCpu(a!, 2), snapshotCpus(a!)), [0, 1]);
    beginWait(b!, WAIT_SHOOTDOWN, c!.area);
    assert.deepEqual(cycleOf(a!), [1, 2]);
  });

  test('is none with somebody who has been woken, be it that it has not run since', () => {
    const [a, b] = bootCpus(2);
    const [first, second] = [newLock(a!), newLock(a!)];
    pushHeld(a!, first);
    pushHeld(b!, second);
    sleepFor(a!, WAIT_MUTEX, second);
    sleepFor(b!, WAIT_MUTEX, first);
    assert.deepEqual(cycleOf(a!), [0, 1]);
    wakeUpProcess(b!, a!.area);
    assert.equal(cycleOf(a!), undefined);
    setCurrentState(a!, TASK_UNINTERRUPTIBLE);
    assert.deepEqual(cycleOf(a!), [0, 1]);
    setCurrentRunning(a!);
    endWait(a!);
    assert.equal(cycleOf(a!), undefined);
  });

  test('of CPUs that spin needs no sleep', () => {
    const [a, b] = bootCpus(2);
    const [first, second] = [newLock(a!), newLock(a!)];
    pushHeld(a!, first);
    pushHeld(b!, second);
    beginWait(a!, WAIT_SPINLOCK, second);
    beginWait(b!, WAIT_SPINLOCK, first);
    assert.deepEqual(cycleOf(a!), [0, 1]);
  });
});

test('a CPU is described by what it waits for, by whom that is held, and by what it holds', () => {
  const [a, b, c] = bootCpus(3);
  const [alpha, beta] = [newLock(a!, ALPHA), newLock(a!, BETA)];
  const line = (id: number): string => {
    const all = snapshotCpus(a!);
    return describeCpu(a!, all[id]!, all);
  };
  assert.equal(line(0), 'runs');
  pushHeld(a!, alpha);
  pushHeld(a!, beta);
  pushHeld(c!, beta);
  assert.equal(line(0), 'runs; holds graph->alpha, graph->beta');
  sleepFor(b!, WAIT_RWSEM_READ, beta);
  assert.equal(line(1), 'waits for rwsem (read) graph->beta, held by cpu 0, cpu 2');
  beginWait(c!, WAIT_SHOOTDOWN, b!.area);
  assert.equal(line(2), 'waits for TLB shootdown, of cpu 1; holds graph->beta');
  endWait(b!);
  beginWait(b!, WAIT_COMPLETION, 77);
  assert.equal(line(1), 'waits for completion');
});
