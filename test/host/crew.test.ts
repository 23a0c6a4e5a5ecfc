import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { read } from '#memory';

import { EXIT_INTERNAL, EXIT_VIOLATION, FaultlineError } from '../../src/base/bug.js';
import { Crew, type CrewMember, type CrewOptions } from '../../src/host/crew.js';
import { type FailureKind, MachineFailure } from '../../src/host/failure.js';
import { WorkerPool } from '../../src/host/pool.js';
import { type BootedMachine, bootMachine } from '../../src/machine/boot.js';
import * as programs from '../programs/host.js';
import { HostArena, initArena } from '../programs/host.js';
import { programUrl, TEST_WORKER } from '../support/crew.js';
import { place } from '../support/machine.js';
import { liveWorkers } from '../support/workers.js';

const module = programUrl('host');

interface Host {
  readonly machine: BootedMachine;
  readonly arena: HostArena;
  readonly crew: Crew;
}

/** A crew whose CPU i runs entries[i], not started yet. */
function host(entries: readonly string[], options: CrewOptions = {}, args?: unknown): Host {
  const machine = bootMachine({ cpus: entries.length, ramBytes: 0 });
  const arena = initArena(machine.cpu, place(machine.cpu, HostArena));
  const members: CrewMember[] = entries.map((entry) => ({
    name: entry,
    module,
    entry,
    args: args ?? arena,
  }));
  return { machine, arena, crew: new Crew(machine, members, { worker: TEST_WORKER, ...options }) };
}

/** Runs to the end; the failure that this is, of that kind. */
async function failure(kind: FailureKind, entries: readonly string[]): Promise<MachineFailure> {
  const { crew } = host(entries);
  try {
    await crew.ready();
    crew.start();
    await crew.results();
  } catch (error) {
    assert.ok(error instanceof MachineFailure, String(error));
    assert.equal(error.kind, kind, error.message);
    assert.ok(error instanceof FaultlineError);
    assert.equal(error.code, `FAULTLINE_MACHINE_${kind.toUpperCase().replace(' ', '_')}`);
    return error;
  }
  throw new Error('it ended well');
}

// whatever a test did, no worker of it is left
afterEach(() => {
  assert.equal(liveWorkers(), 0);
});

describe('a crew that ends well', () => {
  test('returns what each program returned, by CPU, and ends its workers', async () => {
    const payload = { label: 'x', numbers: [1, 2, 3] };
    const { crew } = host(Array(3).fill(programs.answer.name) as string[], {}, payload);
    await crew.ready();
    assert.equal(liveWorkers(), 3);
    crew.start();
    const results = await crew.results();
    assert.deepEqual(
      results.map((result) => result.value),
      [0, 1, 2].map((cpu) => ({ cpu, label: 'x', sum: 6 })),
    );
  });

  test('runs nothing before it is started', async () => {
    const { machine, arena, crew } = host([programs.begin.name, programs.begin.name]);
    await crew.ready();
    await delay(20);
    assert.equal(read(machine.cpu, arena, HostArena.ran), 0);
    crew.start();
    const values = (await crew.results()).map((result) => result.value);
    assert.deepEqual(values.sort(), [0, 1]);
  });

  test('may have many more CPUs than the host has cores', async () => {
    const { machine, arena, crew } = host(Array(32).fill(programs.takeTurns.name) as string[]);
    await crew.ready();
    crew.start();
    assert.equal((await crew.results()).length, 32);
    assert.equal(read(machine.cpu, arena, HostArena.ran), 32 * 50);
  });
});

test('a crew with more members than the machine has CPUs is refused', () => {
  const machine = bootMachine({ cpus: 1, ramBytes: 0 });
  const member = { name: 'begin', module, entry: programs.begin.name, args: 0 };
  assert.throws(() => new Crew(machine, [member, member]), /2 members needs as many CPUs, not 1/);
});

test('a crew with more members than its pool has workers is refused', async () => {
  const machine = bootMachine({ cpus: 2, ramBytes: 0 });
  const member = { name: 'begin', module, entry: programs.begin.name, args: 0 };
  const pool = new WorkerPool(1, 'parallel');
  assert.throws(() => new Crew(machine, [member, member], { pool }), /as many workers, not 1/);
  await pool.end();
});

describe('a crew that is halted', () => {
  test('ends, with the results of those who had returned', async () => {
    const { crew } = host([programs.runOn.name, programs.begin.name, programs.waitForNothing.name]);
    await crew.ready();
    crew.start();
    await delay(20);
    crew.halt();
    await crew.halted;
    assert.deepEqual(
      (await crew.results()).map((result) => result.value),
      [0],
    );
  });

  test('is no stall, however impatient the watchdog', async () => {
    const watchdog = { stallMs: 1 };
    const { crew } = host([programs.ignoreHalt.name, programs.waitForNothing.name], { watchdog });
    await crew.ready();
    crew.start();
    await delay(5);
    crew.halt();
    assert.deepEqual(await crew.results(), []);
  });

  test('before it is ready is ready at once, and then runs nothing', async () => {
    const { machine, arena, crew } = host([programs.begin.name, programs.begin.name]);
    crew.halt();
    await crew.ready();
    crew.start();
    assert.deepEqual(await crew.results(), []);
    assert.equal(read(machine.cpu, arena, HostArena.ran), 0);
  });

  test('leaves nothing behind of a program that does not notice', async () => {
    const { crew } = host([programs.ignoreHalt.name, programs.runOn.name]);
    await crew.ready();
    crew.start();
    await delay(20);
    crew.halt();
    assert.deepEqual(await crew.results(), []);
  });
});

describe('a CPU that dies', () => {
  test('stops the others, and the report names it, the function, and the locks it holds', async () => {
    const error = await failure('died', [
      programs.dieWithLocks.name,
      programs.waitForTheDying.name,
      programs.runOn.name,
    ]);
    const [summary, ...details] = error.message.split('\n');
    assert.match(
      summary!,
      /^cpu 0 \(dieWithLocks\) died in mutexLock: KernelBug: .*invalid context.* \(holds alpha->lock, gamma->sem\)$/,
    );
    const text = details.join('\n');
    assert.match(text, /at breakRule \(.*host\.ts:\d+/, 'the stack is that of the source');
    assert.match(text, /cpu 1 \(waitForTheDying\) waits for mutex alpha->lock, held by cpu 0/);
    assert.match(text, /cpu 2 \(runOn\) runs/);
    assert.match(text, /warning: cpu 0: something was odd before/);
    assert.equal(error.exitCode, EXIT_VIOLATION);
  });

  test('of a mistake in a module of the user’s is a finding', async () => {
    const error = await failure('died', [programs.dieOfTypo.name, programs.runOn.name]);
    const [summary, ...details] = error.message.split('\n');
    assert.match(
      summary!,
      /^cpu 0 \(dieOfTypo\) died in dieOfTypo at \S+host\.ts:\d+:\d+: TypeError: .* no locks\)$/,
    );
    const frames = details.filter((line) => line.startsWith('    at '));
    assert.equal(frames.length, 1, 'and not how the worker came to run it');
    assert.equal(error.exitCode, EXIT_VIOLATION);
  });

  test('of an error in our own code is our own fault', async () => {
    const error = await failure('died', [programs.dieInsideKernel.name]);
    assert.match(error.message, /died in mutexLock: TypeError/);
    assert.equal(error.exitCode, EXIT_INTERNAL);
  });

  test('of something that is no error is reported all the same', async () => {
    const error = await failure('died', [programs.throwText.name]);
    assert.match(error.message, /^cpu 0 \(throwText\) died in .*: string: just a text/);
  });

  test('stops also a program that does not notice', async () => {
    const error = await failure('died', [programs.dieOfTypo.name, programs.ignoreHalt.name]);
    assert.match(error.message, /cpu 1 \(ignoreHalt\) runs/);
  });

  test('before the start makes the crew not ready', async () => {
    const { crew } = host(['noSuchProgram', programs.begin.name]);
    await assert.rejects(crew.ready(), /cpu 0 .* died in .*exports no noSuchProgram/);
  });
});

describe('workers that are there already', () => {
  test('serve one crew after the other, also one that failed, and are left to the caller', async () => {
    const pool = new WorkerPool(2, 'parallel', TEST_WORKER);
    const first = host([programs.begin.name, programs.begin.name], { pool });
    await first.crew.ready();
    first.crew.start();
    await first.crew.results();
    const second = host([programs.firstThenSecond.name, programs.secondThenFirst.name], { pool });
    await second.crew.ready();
    second.crew.start();
    await assert.rejects(second.crew.results(), /deadlock: cpu 0/);
    assert.equal(pool.hasEnded, false);
    const third = host([programs.begin.name], { pool }); // fewer than there are
    await third.crew.ready();
    third.crew.start();
    assert.equal((await third.crew.results()).length, 1);
    assert.equal(liveWorkers(), 2);
    await pool.end();
  });

  test('are all ended if one does not come back', async () => {
    const pool = new WorkerPool(2, 'parallel', TEST_WORKER);
    const { crew } = host([programs.dieOfTypo.name, programs.ignoreHalt.name], { pool });
    await crew.ready();
    crew.start();
    await assert.rejects(crew.results(), /died in dieOfTypo/);
    assert.equal(pool.hasEnded, true);
  });
});

describe('a worker thread that is lost', () => {
  test('stops the others, and the report says what its CPU held', async () => {
    const error = await failure('lost worker', [
      programs.exitThread.name,
      programs.waitForTheDying.name,
      programs.runOn.name,
    ]);
    assert.match(error.message, /^cpu 0 \(exitThread\) lost its worker thread: .*code: 3/);
    assert.match(error.message, /holds alpha->lock/);
    assert.match(error.message, /cpu 1 \(waitForTheDying\) waits for mutex alpha->lock/);
  });

  test('or a result that cannot be sent, is a failure', async () => {
    const error = await failure('lost worker', [programs.returnFunction.name, programs.runOn.name]);
    assert.match(error.message, /cpu 0 \(returnFunction\) .*what it returned cannot be sent/);
  });

  test('because of an error after its program is a failure, too', async () => {
    const error = await failure('lost worker', [programs.throwLater.name, programs.runOn.name]);
    assert.match(error.message, /a worker thread failed outside its program: Error: too late/);
  });
});
