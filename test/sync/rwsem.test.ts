import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { readOnce } from '#memory';

import { EINTR } from '../../src/base/errno.js';
import { pushHeld } from '../../src/debug/held-locks.js';
import { snapshotCpu } from '../../src/debug/wait-graph.js';
import { attachCpu } from '../../src/machine/boot.js';
import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import {
  preemptDisable,
  sendSigkill,
  setCurrentRunning,
  setCurrentState,
  TASK_UNINTERRUPTIBLE,
  wakeUpProcess,
} from '../../src/machine/sched.js';
import { member } from '../../src/memory/layout.js';
import { listEmpty } from '../../src/memory/list.js';
import { OptimisticSpinQueue } from '../../src/sync/optimistic-spin-queue.js';
import {
  downgradeWrite,
  downRead,
  downReadKillable,
  downReadTrylock,
  downWrite,
  downWriteKillable,
  downWriteTrylock,
  initRwsem,
  Rwsem,
  rwsemIsContended,
  rwsemIsLocked,
  upRead,
  upWrite,
} from '../../src/sync/rwsem.js';
import {
  Arena,
  HANDOVERS,
  killOthers,
  noLock,
  ROUNDS,
  rwsemAllWays,
  rwsemReader,
  rwsemReadHandover,
  rwsemWriteHandover,
  rwsemWriter,
  streamReader,
  streamWriter,
  WRITER_ROUNDS,
} from '../programs/locks.js';
import { assertExclusive, contend, times } from '../support/contention.js';
import { assertBug, bootCpus, place } from '../support/machine.js';
import { type Call, Puppets } from '../support/puppets.js';

const NAME = lockClass('test->rwsem');
const WRITER = 1;
const WAITERS = 2;
const HANDOFF = 4;
const READER = 0x100;
const READER_OWNED = 1;
const NONSPINNABLE = 2;
/** Longer than a waiter is patient. */
const IMPATIENT_MS = 8;

function newRwsem(cpu: Cpu): Rwsem {
  const sem = place(cpu, Rwsem);
  initRwsem(cpu, sem, NAME);
  return sem;
}

const countOf = (cpu: Cpu, sem: Rwsem): number => readOnce(cpu, sem, Rwsem.count);
/** Without the reservation that whoever has waited for long makes, on a slow host also where it is not the point. */
const holdersOf = (cpu: Cpu, sem: Rwsem): number => countOf(cpu, sem) & ~HANDOFF;
const ownerOf = (cpu: Cpu, sem: Rwsem): number => readOnce(cpu, sem, Rwsem.owner);

/** INV-4: idle means count 0 and an empty queue. */
function assertIdle(cpu: Cpu, sem: Rwsem): void {
  assert.equal(countOf(cpu, sem), 0);
  assert.ok(listEmpty(cpu, member(sem, Rwsem.waitList)));
  assert.equal(readOnce(cpu, member(sem, Rwsem.osq), OptimisticSpinQueue.tail), 0);
}

describe('alone', () => {
  test('readers are counted, and a writer is alone', () => {
    const [a, b] = bootCpus(2);
    const sem = newRwsem(a!);
    downRead(a!, sem);
    assert.equal(downReadKillable(b!, sem), 0);
    assert.equal(countOf(a!, sem), 2 * READER);
    assert.equal(rwsemIsLocked(a!, sem), true);
    assert.equal(downWriteTrylock(a!, sem), false);
    upRead(a!, sem);
    upRead(b!, sem);
    assert.equal(rwsemIsLocked(a!, sem), false);
    downWrite(b!, sem);
    assert.equal(countOf(a!, sem), WRITER);
    assert.equal(downReadTrylock(a!, sem), false);
    assert.equal(downWriteTrylock(a!, sem), false);
    upWrite(b!, sem);
    assert.equal(downWriteKillable(a!, sem), 0);
    upWrite(a!, sem);
    assert.equal(downWriteTrylock(a!, sem), true);
    upWrite(a!, sem);
    assert.equal(downReadTrylock(a!, sem), true);
    upRead(a!, sem);
    assertIdle(a!, sem);
  });

  test('the owner hint names the writer, or the last reader as a reader', () => {
    const [a, b] = bootCpus(2);
    const sem = newRwsem(a!);
    downWrite(a!, sem);
    assert.equal(ownerOf(a!, sem), a!.area);
    upWrite(a!, sem);
    assert.equal(ownerOf(a!, sem), 0);
    downRead(a!, sem);
    downRead(b!, sem);
    assert.equal(ownerOf(a!, sem), b!.area | READER_OWNED);
    upRead(a!, sem);
    upRead(b!, sem);
    assert.equal(downWriteTrylock(b!, sem), true);
    assert.equal(ownerOf(a!, sem), b!.area);
    downgradeWrite(b!, sem);
    assert.equal(ownerOf(a!, sem), b!.area | READER_OWNED);
    upRead(b!, sem);
  });

  test('downgrading leaves a reader, and lets others in', () => {
    const [a, b] = bootCpus(2);
    const sem = newRwsem(a!);
    downWrite(a!, sem);
    downgradeWrite(a!, sem);
    assert.equal(countOf(a!, sem), READER);
    assert.equal(downReadTrylock(b!, sem), true);
    assert.deepEqual(snapshotCpu(b!, 0).held, [sem]);
    upRead(a!, sem);
    upRead(b!, sem);
    assertIdle(a!, sem);
  });

  test('giving back what one does not hold is a bug', () => {
    const [a, b] = bootCpus(2);
    const sem = newRwsem(a!);
    const attempts: [() => void, () => void, RegExp][] = [
      [
        () => undefined,
        () => {
          upRead(a!, sem);
        },
        /which it does not hold/,
      ],
      [
        () => {
          downWrite(b!, sem);
        },
        () => {
          upWrite(a!, sem);
        },
        /cpu 0 releases lock \d+, which it does not hold/,
      ],
      [
        () => {
          pushHeld(a!, sem); // even if the record says otherwise
        },
        () => {
          upRead(a!, sem);
        },
        /up_read without a reader \(I1\)/,
      ],
    ];
    for (const [prepare, attempt, message] of attempts) {
      prepare();
      assertBug(attempt, message);
    }
  });

  test('giving back in the other mode is a bug', () => {
    const [a] = bootCpus(1);
    const first = newRwsem(a!);
    downRead(a!, first);
    assertBug(() => {
      upWrite(a!, first);
    }, /up_write without a writer \(I1\)/);
    const second = newRwsem(a!);
    downRead(a!, second);
    assertBug(() => {
      downgradeWrite(a!, second);
    }, /downgrade without a writer \(I1\)/);
  });

  test('taking it may sleep, so it is a bug where that may not be', () => {
    const [a] = bootCpus(1);
    const sem = newRwsem(a!);
    preemptDisable(a!);
    for (const take of [downRead, downReadKillable, downWrite, downWriteKillable]) {
      assertBug(() => {
        take(a!, sem);
      }, /sleeping function called from invalid context/);
    }
    assert.equal(downReadTrylock(a!, sem), true);
  });

  test('a pending signal does not keep anybody from a free semaphore', () => {
    const [a] = bootCpus(1);
    const sem = newRwsem(a!);
    sendSigkill(a!, a!.area);
    assert.equal(downReadKillable(a!, sem), 0);
    upRead(a!, sem);
    assert.equal(downWriteKillable(a!, sem), 0);
  });
});

describe('scripted', () => {
  let puppets: Puppets;
  let boot: Cpu;
  /** A CPU on the test's thread, so that nothing can come between two steps of it. */
  let here: Cpu;
  before(() => {
    puppets = new Puppets(5, { cpus: 6 });
    ({ boot } = puppets);
    here = attachCpu(puppets.handle, 5);
  });
  after(() => puppets.stop());

  async function queue(id: number, op: Parameters<Puppets['start']>[1], sem: Rwsem): Promise<Call> {
    const call = puppets.start(id, op, sem);
    await call.blocked();
    return call;
  }

  /** Lets a waiter find out that it has waited for too long. */
  async function makeImpatient(id: number, sem: Rwsem): Promise<void> {
    await delay(IMPATIENT_MS);
    wakeUpProcess(boot, cpuArea(id));
    while ((countOf(boot, sem) & HANDOFF) === 0) await delay(1);
  }

  test('a reader that arrives while a writer waits does not overtake it', async () => {
    const sem = newRwsem(boot);
    downRead(here, sem);
    assert.equal(await puppets.call(2, 'downReadTrylock', sem), 1);
    const writer = await queue(0, 'downWrite', sem);
    assert.equal(puppets.waitOf(0), 'rwsem (write)');
    assert.equal(holdersOf(boot, sem), 2 * READER + WAITERS);
    const reader = await queue(1, 'downRead', sem);
    assert.equal(puppets.waitOf(1), 'rwsem (read)');
    assert.equal(holdersOf(boot, sem), 2 * READER + WAITERS, 'the reader is not counted');
    upRead(here, sem);
    assert.ok(puppets.isBlocked(0) && puppets.isBlocked(1), 'one reader is left');
    await puppets.call(2, 'upRead', sem);
    await writer.done;
    assert.equal(holdersOf(boot, sem), WRITER + WAITERS);
    assert.ok(puppets.isBlocked(1));
    await puppets.call(0, 'upWrite', sem);
    await reader.done;
    assert.equal(countOf(boot, sem), READER);
    assert.equal(ownerOf(boot, sem), cpuArea(1) | READER_OWNED);
    await puppets.call(1, 'upRead', sem);
    assertIdle(boot, sem);
  });

  test('read trylock fails on a merely read-held semaphore when anybody waits (LT-22)', async () => {
    const sem = newRwsem(boot);
    downRead(here, sem);
    assert.equal(await puppets.call(1, 'downReadTrylock', sem), 1, 'nobody waits yet');
    await puppets.call(1, 'upRead', sem);
    const writer = await queue(0, 'downWriteKillable', sem);
    assert.equal(rwsemIsContended(boot, sem), true);
    assert.equal(await puppets.call(1, 'downReadTrylock', sem), 0);
    assert.equal(await puppets.call(1, 'downWriteTrylock', sem), 0);
    sendSigkill(boot, cpuArea(0));
    assert.equal(await writer.done, -EINTR);
    await puppets.call(0, 'clearSignal');
    assert.equal(rwsemIsContended(boot, sem), false);
    assert.equal(await puppets.call(1, 'downReadTrylock', sem), 1, 'nobody waits any more');
    await puppets.call(1, 'upRead', sem);
    upRead(here, sem);
    assertIdle(boot, sem);
  });

  test('all readers in the queue are granted together, over the heads of queued writers', async () => {
    const sem = newRwsem(boot);
    downWrite(here, sem);
    const first = await queue(0, 'downRead', sem);
    const writer = await queue(1, 'downWrite', sem);
    const second = await queue(2, 'downRead', sem);
    const third = await queue(3, 'downRead', sem);
    upWrite(here, sem);
    await Promise.all([first.done, second.done, third.done]);
    assert.equal(holdersOf(boot, sem), 3 * READER + WAITERS);
    assert.ok(puppets.isBlocked(1));
    for (const id of [0, 2, 3]) await puppets.call(id, 'upRead', sem);
    await writer.done;
    assert.equal(countOf(boot, sem), WRITER, 'nobody waits any more');
    await puppets.call(1, 'upWrite', sem);
    assertIdle(boot, sem);
  });

  test('if a writer is first, it goes first and alone', async () => {
    const sem = newRwsem(boot);
    downWrite(here, sem);
    const writer = await queue(1, 'downWrite', sem);
    const readers = [await queue(0, 'downRead', sem), await queue(2, 'downRead', sem)];
    upWrite(here, sem);
    await writer.done;
    assert.equal(holdersOf(boot, sem), WRITER + WAITERS);
    assert.ok(puppets.isBlocked(0) && puppets.isBlocked(2));
    await puppets.call(1, 'upWrite', sem);
    await Promise.all(readers.map((reader) => reader.done));
    assert.equal(countOf(boot, sem), 2 * READER);
    for (const id of [0, 2]) await puppets.call(id, 'upRead', sem);
    assertIdle(boot, sem);
  });

  test('writers get it one after the other, in the order they came', async () => {
    const sem = newRwsem(boot);
    downWrite(here, sem);
    const order = [3, 1, 0, 2];
    const writers = new Map<number, Call>();
    for (const id of order) writers.set(id, await queue(id, 'downWrite', sem));
    upWrite(here, sem);
    for (const [index, id] of order.entries()) {
      await writers.get(id)!.done;
      for (const behind of order.slice(index + 1)) assert.ok(puppets.isBlocked(behind));
      assert.equal(ownerOf(boot, sem), cpuArea(id));
      await puppets.call(id, 'upWrite', sem);
    }
    assertIdle(boot, sem);
  });

  test('downgrading grants the readers at the head of the queue, and no writer', async () => {
    const sem = newRwsem(boot);
    downWrite(here, sem);
    const reader = await queue(0, 'downRead', sem);
    const writer = await queue(1, 'downWrite', sem);
    const behind = await queue(2, 'downRead', sem);
    downgradeWrite(here, sem);
    await Promise.all([reader.done, behind.done]);
    assert.equal(holdersOf(boot, sem), 3 * READER + WAITERS);
    assert.ok(puppets.isBlocked(1));
    upRead(here, sem);
    for (const id of [0, 2]) await puppets.call(id, 'upRead', sem);
    await writer.done;
    await puppets.call(1, 'upWrite', sem);
    assertIdle(boot, sem);
  });

  test('downgrading with a writer at the head of the queue grants nobody', async () => {
    const sem = newRwsem(boot);
    downWrite(here, sem);
    const writer = await queue(1, 'downWrite', sem);
    const reader = await queue(0, 'downRead', sem);
    downgradeWrite(here, sem);
    assert.equal(holdersOf(boot, sem), READER + WAITERS);
    upRead(here, sem);
    await writer.done;
    await puppets.call(1, 'upWrite', sem);
    await reader.done;
    await puppets.call(0, 'upRead', sem);
    assertIdle(boot, sem);
  });

  describe('after a waiter has reserved it (INV-2)', () => {
    test('no trylock, no reader and no other writer takes it before that one', async () => {
      const sem = newRwsem(boot);
      downWrite(here, sem);
      const patient = await queue(0, 'downWrite', sem);
      await makeImpatient(0, sem);
      await patient.blocked();
      assert.equal(countOf(boot, sem), WRITER + WAITERS + HANDOFF);
      const writer = puppets.start(1, 'downWrite', sem);
      await writer.blocked();
      const reader = await queue(2, 'downRead', sem);
      upWrite(here, sem);
      assert.equal(downReadTrylock(here, sem), false);
      assert.equal(downWriteTrylock(here, sem), false);
      await patient.done;
      assert.equal(ownerOf(boot, sem), cpuArea(0));
      assert.equal(countOf(boot, sem), WRITER + WAITERS, 'the reservation is used up');
      assert.ok(puppets.isBlocked(1) && puppets.isBlocked(2));
      await puppets.call(0, 'upWrite', sem);
      await writer.done;
      await puppets.call(1, 'upWrite', sem);
      await reader.done;
      await puppets.call(2, 'upRead', sem);
      assertIdle(boot, sem);
    });

    test('a writer reserves it from readers, too', async () => {
      const sem = newRwsem(boot);
      downRead(here, sem);
      const writer = await queue(0, 'downWrite', sem);
      await makeImpatient(0, sem);
      await writer.blocked();
      assert.equal(countOf(boot, sem), READER + WAITERS + HANDOFF);
      upRead(here, sem);
      assert.equal(downReadTrylock(here, sem), false);
      await writer.done;
      await puppets.call(0, 'upWrite', sem);
      assertIdle(boot, sem);
    });

    test('a reservation whose waiter was killed is nobody’s, and goes with the queue', async () => {
      const sem = newRwsem(boot);
      downWrite(here, sem);
      const killed = await queue(0, 'downWriteKillable', sem);
      const next = await queue(1, 'downWrite', sem);
      await makeImpatient(0, sem);
      sendSigkill(boot, cpuArea(0));
      assert.equal(await killed.done, -EINTR);
      await puppets.call(0, 'clearSignal');
      upWrite(here, sem);
      await next.done;
      assert.equal(countOf(boot, sem), WRITER);
      await puppets.call(1, 'upWrite', sem);
      assertIdle(boot, sem);
    });

    test('a reader at the head that has waited too long reserves it, too', async () => {
      const sem = newRwsem(boot);
      downWrite(here, sem);
      const first = await queue(1, 'downWriteKillable', sem);
      const reader = await queue(0, 'downRead', sem);
      await delay(IMPATIENT_MS);
      sendSigkill(boot, cpuArea(1)); // the reader is first then, and is woken in vain
      assert.equal(await first.done, -EINTR);
      await puppets.call(1, 'clearSignal');
      assert.equal(countOf(boot, sem), WRITER + WAITERS + HANDOFF);
      assert.ok(puppets.isBlocked(0));
      const writer = await queue(2, 'downWrite', sem);
      upWrite(here, sem);
      assert.equal(downWriteTrylock(here, sem), false);
      await reader.done;
      assert.equal(countOf(boot, sem), READER + WAITERS, 'the reservation is used up');
      await puppets.call(0, 'upRead', sem);
      await writer.done;
      await puppets.call(2, 'upWrite', sem);
      assertIdle(boot, sem);
    });

    test('newcomers who come at the moment of the release do not steal it', async () => {
      const sem = newRwsem(boot);
      for (let round = 0; round < 40; round++) {
        const [take, give] = (
          [
            ['downWrite', 'upWrite'],
            ['downRead', 'upRead'],
          ] as const
        )[round % 2]!;
        downWrite(here, sem);
        const patient = await queue(0, 'downWrite', sem);
        await makeImpatient(0, sem);
        const thief = puppets.start(1, take, sem);
        for (let i = 0; i < round * 500; i++) countOf(boot, sem);
        upWrite(here, sem);
        const first = await Promise.race([
          patient.done.then(() => 'who had reserved it'),
          thief.done.then(() => `the newcomer (${take}, round ${round})`),
        ]);
        assert.equal(first, 'who had reserved it');
        await puppets.call(0, 'upWrite', sem);
        await thief.done;
        await puppets.call(1, give, sem);
      }
      assertIdle(boot, sem);
    });
  });

  describe('a fatal signal', () => {
    test('ends the wait of killable waiters, and of no others', async () => {
      const sem = newRwsem(boot);
      downWrite(here, sem);
      const plain = [await queue(0, 'downRead', sem), await queue(1, 'downWrite', sem)];
      const killable = [
        await queue(2, 'downReadKillable', sem),
        await queue(3, 'downWriteKillable', sem),
      ];
      for (const id of [0, 1, 2, 3]) sendSigkill(boot, cpuArea(id));
      for (const call of killable) assert.equal(await call.done, -EINTR);
      for (const id of [2, 3]) assert.deepEqual(snapshotCpu(boot, id).held, []);
      assert.ok(puppets.isBlocked(0) && puppets.isBlocked(1));
      upWrite(here, sem);
      await plain[0]!.done;
      await puppets.call(0, 'upRead', sem);
      await plain[1]!.done;
      await puppets.call(1, 'upWrite', sem);
      for (const id of [0, 1, 2, 3]) await puppets.call(id, 'clearSignal');
      assertIdle(boot, sem);
    });

    test('to the writer at the head lets the readers behind it in', async () => {
      const sem = newRwsem(boot);
      downRead(here, sem);
      const writer = await queue(0, 'downWriteKillable', sem);
      const readers = [await queue(1, 'downRead', sem), await queue(2, 'downRead', sem)];
      sendSigkill(boot, cpuArea(0));
      assert.equal(await writer.done, -EINTR);
      await Promise.all(readers.map((reader) => reader.done));
      assert.equal(countOf(boot, sem), 3 * READER);
      upRead(here, sem);
      for (const id of [1, 2]) await puppets.call(id, 'upRead', sem);
      await puppets.call(0, 'clearSignal');
      assertIdle(boot, sem);
    });

    test('to the last waiter leaves no trace of it', async () => {
      const sem = newRwsem(boot);
      for (const op of ['downReadKillable', 'downWriteKillable'] as const) {
        downWrite(here, sem);
        const waiter = await queue(0, op, sem);
        assert.equal(holdersOf(boot, sem), WRITER + WAITERS);
        sendSigkill(boot, cpuArea(0));
        assert.equal(await waiter.done, -EINTR);
        assert.equal(countOf(boot, sem), WRITER);
        upWrite(here, sem);
        await puppets.call(0, 'clearSignal');
        assertIdle(boot, sem);
      }
    });

    test('that comes with the grant is too late: the reader has it', async () => {
      const sem = newRwsem(boot);
      for (let round = 0; round < 50; round++) {
        downWrite(here, sem);
        const reader = await queue(0, 'downReadKillable', sem);
        upWrite(here, sem); // grants
        sendSigkill(boot, cpuArea(0));
        assert.equal(await reader.done, 0);
        assert.equal(countOf(boot, sem), READER);
        await puppets.call(0, 'upRead', sem);
        await puppets.call(0, 'clearSignal');
      }
      assertIdle(boot, sem);
    });

    test('that came before is not waited out', async () => {
      const sem = newRwsem(boot);
      downWrite(here, sem);
      sendSigkill(boot, cpuArea(0));
      assert.equal(await puppets.call(0, 'downReadKillable', sem), -EINTR);
      assert.equal(await puppets.call(0, 'downWriteKillable', sem), -EINTR);
      await puppets.call(0, 'clearSignal');
      upWrite(here, sem);
      assertIdle(boot, sem);
    });
  });

  test('spinning writers give up on readers, which then are not spun on until they have left', async () => {
    const sem = newRwsem(boot);
    downRead(here, sem);
    const writer = await queue(0, 'downWrite', sem);
    assert.equal(ownerOf(boot, sem), here.area | READER_OWNED | NONSPINNABLE);
    upRead(here, sem);
    await writer.done;
    await puppets.call(0, 'upWrite', sem);
    assertIdle(boot, sem);
  });

  test('nobody spins on a writer that sleeps', async () => {
    const sem = newRwsem(boot);
    downWrite(here, sem);
    setCurrentState(here, TASK_UNINTERRUPTIBLE);
    const writer = await queue(0, 'downWrite', sem);
    assert.equal(readOnce(boot, member(sem, Rwsem.osq), OptimisticSpinQueue.tail), 0);
    setCurrentRunning(here);
    upWrite(here, sem);
    await writer.done;
    await puppets.call(0, 'upWrite', sem);
    assertIdle(boot, sem);
  });
});

describe('with more CPUs than cores', () => {
  const idleAfter = (run: Awaited<ReturnType<typeof contend>>): void => {
    assertIdle(run.cpu, member(run.arena, Arena.rwsem));
  };

  test('writers are alone', async () => {
    const run = await contend(times(6, rwsemWriter));
    assertExclusive(run, 6 * ROUNDS);
    idleAfter(run);
  });

  test('readers see no writer, and no half of what one does', async () => {
    const run = await contend([...times(3, rwsemWriter), ...times(3, rwsemReader)]);
    assertExclusive(run, 3 * ROUNDS);
    idleAfter(run);
  });

  test('… in whatever way they take it, and also when they are killed all the time', async () => {
    const run = await contend([...times(5, rwsemAllWays), killOthers.name]);
    assertExclusive(run, run.field(Arena.sections));
    idleAfter(run);
  });

  for (const [what, first, second] of [
    ['two writers', rwsemWriteHandover, rwsemWriteHandover],
    ['a writer and a reader', rwsemWriteHandover, rwsemReadHandover],
  ] as const) {
    test(`each wake-up comes, when ${what} hand it to each other`, async () => {
      const { values } = await contend([first.name, second.name]);
      assert.ok(values[0]! + values[1]! >= 2 * HANDOVERS - 1);
    });
  }

  test('control: without it, they disturb each other', async () => {
    const { values } = await contend(times(3, noLock));
    assert.ok(values.some((disturbed) => disturbed > 0));
  });

  test('a writer gets it within a bounded number of sections of a stream of readers', async () => {
    const run = await contend([streamWriter.name, ...times(4, streamReader)]);
    const [written, ...streams] = run.values;
    assert.ok(streams.every((sections) => sections > 0));
    assert.equal(written, WRITER_ROUNDS);
    const overtaken = run.field(Arena.together);
    assert.ok(overtaken < 1000 * WRITER_ROUNDS, `${overtaken} readers overtook the writer`);
  });
});
