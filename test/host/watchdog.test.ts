import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';

import { type FailureKind, MachineFailure } from '../../src/host/failure.js';
import type { WatchdogOptions } from '../../src/host/watchdog.js';
import { initTlbContext } from '../../src/machine/tlb.js';
import { member } from '../../src/memory/layout.js';
import * as programs from '../programs/host.js';
import { HostArena, initArena } from '../programs/host.js';
import { programUrl, runProgram, TEST_WORKER } from '../support/crew.js';
import { place } from '../support/machine.js';
import { liveWorkers } from '../support/workers.js';

async function run(
  programList: readonly { readonly name: string }[],
  watchdog: Partial<WatchdogOptions> = {},
): Promise<readonly unknown[]> {
  const { results } = await runProgram({
    cpus: programList.length,
    module: programUrl('host'),
    entry: programList.map((program) => program.name),
    watchdog,
    worker: TEST_WORKER, // its own, none of which may be left
    setup: (cpu) => {
      const arena = initArena(cpu, place(cpu, HostArena));
      initTlbContext(cpu, member(arena, HostArena.context));
      return arena;
    },
  });
  return results.map((result) => result.value);
}

/** Runs until the watchdog ends it; the report, of that kind. */
async function report(kind: FailureKind, ...run_: Parameters<typeof run>): Promise<string> {
  try {
    await run(...run_);
  } catch (error) {
    assert.ok(error instanceof MachineFailure, String(error));
    assert.equal(error.kind, kind, error.message);
    assert.equal(error.exitCode, 1);
    return error.message;
  }
  throw new Error('it ended well');
}

/** The report has all of the lines, in whatever order. */
function assertLines(message: string, ...lines: RegExp[]): void {
  for (const line of lines) assert.match(message, line);
}

afterEach(() => {
  assert.equal(liveWorkers(), 0);
});

describe('a deadlock is found and told', () => {
  test('of two CPUs that take two mutexes in different orders', async () => {
    const message = await report('deadlock', [programs.firstThenSecond, programs.secondThenFirst]);
    assertLines(
      message,
      /^deadlock: cpu 0 \(firstThenSecond 0\) -> cpu 1 \(secondThenFirst 1\) -> cpu 0 \(/,
      /cpu 0 .* waits for mutex beta->lock, held by cpu 1; holds alpha->lock/,
      /cpu 1 .* waits for mutex alpha->lock, held by cpu 0; holds beta->lock/,
    );
  });

  test('of a CPU with itself', async () => {
    const message = await report('deadlock', [programs.lockTwice]);
    assertLines(
      message,
      /^deadlock: cpu 0 \(lockTwice 0\) -> cpu 0 \(lockTwice 0\)$/m,
      /cpu 0 .* waits for mutex alpha->lock, held by cpu 0; holds alpha->lock/,
    );
  });

  test('of a reader that reads again, when a writer has come in between', async () => {
    const message = await report('deadlock', [programs.readTwice, programs.writeBetween]);
    assertLines(
      message,
      /cpu 0 .* waits for rwsem \(read\) gamma->sem, held by cpu 0; holds gamma->sem/,
      /cpu 1 .* waits for rwsem \(write\) gamma->sem, held by cpu 0/,
    );
  });

  test('of three CPUs and three kinds of locks', async () => {
    const message = await report('deadlock', [
      programs.mutexThenRwsem,
      programs.rwsemThenSpinlock,
      programs.spinlockThenMutex,
    ]);
    assertLines(
      message,
      /^deadlock: cpu 0 .* -> cpu 1 .* -> cpu 2 .* -> cpu 0 /,
      /cpu 0 .* waits for rwsem \(write\) gamma->sem, held by cpu 1; holds alpha->lock/,
      /cpu 1 .* waits for spinlock delta->spinlock, held by cpu 2; holds gamma->sem/,
      /cpu 2 .* waits for mutex alpha->lock, held by cpu 0; holds delta->spinlock/,
    );
  });

  test('of a shootdown and an access that waits for a lock', async () => {
    const message = await report('deadlock', [
      programs.lockInsideAccess,
      programs.shootDownUnderLock,
    ]);
    assertLines(
      message,
      /cpu 0 .* waits for mutex alpha->lock, held by cpu 1/,
      /cpu 1 .* waits for TLB shootdown, of cpu 0; holds alpha->lock/,
    );
  });

  test('while other CPUs still run', async () => {
    const message = await report('deadlock', [
      programs.runOn,
      programs.makeProgress,
      programs.firstThenSecond,
      programs.secondThenFirst,
    ]);
    assertLines(message, /^deadlock: cpu 2 .* -> cpu 3 /, /cpu 0 .* runs/, /cpu 1 .* runs/);
  });
});

describe('on a machine that nobody outside wakes', () => {
  test('all who have something to do sleep: nobody is left to wake them', async () => {
    const message = await report('deadlock', [programs.waitForNothing, programs.runOn], {
      atRest: (cpu) => cpu === 1,
    });
    assertLines(
      message,
      /^deadlock: nobody is left to wake cpu 0 \(waitForNothing 0\)$/m,
      /cpu 0 .* waits for completion/,
      /cpu 1 .* has ended/,
    );
  });

  test('who sleeps is left alone while somebody runs', async () => {
    const values = await run([programs.holdLong, programs.waitLong], { atRest: () => false });
    assert.deepEqual(values, ['gave it back', 'got it']);
  });
});

describe('a stall is found and told', () => {
  const stallMs = 400;

  test('of a CPU that waits for what nobody does', async () => {
    const message = await report('stalled', [programs.waitForNothing, programs.runOn], { stallMs });
    assertLines(
      message,
      /^stalled: cpu 0 .* waits for completion, for \d\.\d s$/m,
      /cpu 1 .* runs/,
    );
  });

  test('of a CPU that runs and counts no progress, if it is to', async () => {
    const message = await report('stalled', [programs.makeProgress, programs.runOn], {
      stallMs,
      countsProgress: true,
    });
    assertLines(message, /^stalled: cpu 1 .* runs, for /);
  });

  for (const [what, program] of [
    ['goes from wait to wait', programs.waitInVain],
    ['goes on in a long loop', programs.loopOn],
  ] as const) {
    test(`of a CPU that ${what}, and completes nothing`, async () => {
      const message = await report('stalled', [programs.makeProgress, program], {
        stallMs,
        countsProgress: true,
      });
      assertLines(message, /^stalled: cpu 1 .*, for [2-9]\.\d s/); // PATIENCE times as long
    });
  }
});

describe('what is no failure', () => {
  test('is a lock that is held for long', async () => {
    const values = await run([programs.holdLong, programs.waitLong], { stallMs: 60_000 });
    assert.deepEqual(values, ['gave it back', 'got it']);
  });

  test('is a lock whose holder gets on, though who waits for it does not', async () => {
    const watchdog = { stallMs: 800, countsProgress: true };
    const values = await run([programs.holdLong, programs.waitLong], watchdog);
    assert.deepEqual(values, ['gave it back', 'got it']);
  });

  test('is a CPU that has finished while another goes on', async () => {
    const values = await run([programs.holdLong, programs.waitLong, programs.begin], {
      stallMs: 3000,
      countsProgress: false,
    });
    assert.equal(values.length, 3);
  });
});
