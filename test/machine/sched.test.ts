import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { clockMs, readOnce } from '#memory';

import { attachCpu, bootMachine } from '../../src/machine/boot.js';
import { cpuArea } from '../../src/machine/cpu.js';
import {
  checkHalted,
  clearSignal,
  cpuRelax,
  HALT_DEADLOCK,
  HALT_PANIC,
  haltMachine,
  MachineHalted,
  mightSleep,
  ownerOnCpu,
  preemptDisable,
  preemptEnable,
  schedule,
  scheduleTimeout,
  sendSigkill,
  setCurrentRunning,
  setCurrentState,
  signalPendingState,
  TASK_INTERRUPTIBLE,
  TASK_KILLABLE,
  TASK_RUNNING,
  TASK_UNINTERRUPTIBLE,
  wakeUpProcess,
} from '../../src/machine/sched.js';
import { CpuArea, MACHINE, Machine } from '../../src/machine/types.js';
import {
  giveGifts,
  giveInTurn,
  killer,
  passBall,
  receiveGifts,
  receiveInTurn,
  SchedArena,
  sleepForEver,
  sleepUntilKilled,
  tellTime,
  TURNS,
} from '../programs/sched.js';
import { programUrl, runProgram } from '../support/crew.js';
import { assertBug, bootCpu, bootCpus, place } from '../support/machine.js';

const module = programUrl('sched');
const watchdog = { stallMs: 5000 };

describe('no wake-up is lost', () => {
  test('when two CPUs wake each other 100,000 times', async () => {
    const { results } = await runProgram({
      cpus: 2,
      module,
      entry: passBall.name,
      watchdog,
      setup: (cpu) => place(cpu, SchedArena),
    });
    assert.deepEqual(
      results.map((result) => Number(result.value) >= 2 * TURNS - 1),
      [true, true],
    );
  });

  test('when two CPUs wake the same two sleepers through wake queues', async () => {
    const { results } = await runProgram({
      cpus: 4,
      module,
      entry: [receiveGifts.name, receiveGifts.name, giveGifts.name, giveGifts.name],
      watchdog,
      setup: (cpu) => place(cpu, SchedArena),
    });
    assert.equal(results.length, 4);
  });

  test('when the next waker comes while the one before is not through with its queue', async () => {
    const { results } = await runProgram({
      cpus: 3,
      module,
      entry: [receiveInTurn.name, giveInTurn.name, giveInTurn.name],
      watchdog,
      setup: (cpu) => place(cpu, SchedArena),
    });
    assert.equal(results.length, 3);
  });

  test('control: a sleep that nobody ends is reported as a stall', async () => {
    const run = runProgram({
      cpus: 1,
      module,
      entry: sleepForEver.name,
      watchdog: { stallMs: 300 },
      setup: (cpu) => place(cpu, SchedArena),
    });
    await assert.rejects(run, /^MachineFailure|stalled: cpu 0 .* waits for wait queue/);
  });
});

test('a fatal signal ends killable and interruptible sleeps, and no others', async () => {
  const { results } = await runProgram({
    cpus: 2,
    module,
    entry: [sleepUntilKilled.name, killer.name],
    watchdog,
    setup: (cpu) => place(cpu, SchedArena),
  });
  assert.deepEqual(results[0]!.value, ['killable', 'interruptible', 'signal 1']);
});

test('a fatal signal wakes whom it may, and only then', () => {
  const [cpu, other] = bootCpus(2);
  const state = (): number => readOnce(cpu!, other!.area, CpuArea.state);
  for (const [before, after] of [
    [TASK_KILLABLE, TASK_RUNNING],
    [TASK_INTERRUPTIBLE, TASK_RUNNING],
    [TASK_UNINTERRUPTIBLE, TASK_UNINTERRUPTIBLE],
  ] as const) {
    setCurrentState(other!, before);
    sendSigkill(cpu!, other!.area);
    assert.equal(state(), after);
    assert.equal(signalPendingState(other!, before), before !== after);
    clearSignal(other!);
    assert.equal(signalPendingState(other!, before), false);
  }
});

test('waking says whether anybody slept, and a CPU that sleeps is no owner to spin on', () => {
  const [cpu, other] = bootCpus(2);
  assert.equal(wakeUpProcess(cpu!, other!.area), false);
  assert.equal(ownerOnCpu(cpu!, other!.area), true);
  setCurrentState(other!, TASK_UNINTERRUPTIBLE);
  assert.equal(ownerOnCpu(cpu!, other!.area), false);
  assert.equal(wakeUpProcess(cpu!, other!.area), true);
  assert.equal(wakeUpProcess(cpu!, other!.area), false);
  setCurrentState(other!, TASK_UNINTERRUPTIBLE);
  setCurrentRunning(other!);
  assert.equal(wakeUpProcess(cpu!, other!.area), false);
});

test('a wake-up that comes before the sleep makes it return at once', () => {
  const cpu = bootCpu();
  setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
  wakeUpProcess(cpu, cpu.area);
  schedule(cpu);
  scheduleTimeout(cpu, Infinity);
});

test('a sleep with a timeout ends by itself, and running', () => {
  const cpu = bootCpu();
  setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
  scheduleTimeout(cpu, 1);
  assert.equal(readOnce(cpu, cpu.area, CpuArea.state), TASK_RUNNING);
});

test('sleeping with preemption disabled, or in a non-blocking section, is a bug', () => {
  const cpu = bootCpu();
  mightSleep(cpu);
  preemptDisable(cpu);
  preemptDisable(cpu);
  preemptEnable(cpu);
  for (const sleep of [
    () => {
      mightSleep(cpu);
    },
    () => {
      schedule(cpu);
    },
    () => {
      scheduleTimeout(cpu, 1);
    },
  ]) {
    assertBug(sleep, /sleeping function called from invalid context \(preempt_count 1\)/);
  }
  preemptEnable(cpu);
  mightSleep(cpu);
  cpu.nonBlockCount++;
  assertBug(() => {
    mightSleep(cpu);
  }, /invalid context \(non_block_count 1\)/);
});

test('the CPUs of a machine have one clock, so that they can compare deadlines', async () => {
  const before = clockMs(bootCpu());
  const { results } = await runProgram({ cpus: 2, module, entry: tellTime.name });
  const after = clockMs(bootCpu());
  for (const { value } of results) assert.ok(before <= Number(value) && Number(value) <= after);
});

test('a halted machine ends sleeps and spins, and keeps the first reason', () => {
  const { handle, cpu: boot } = bootMachine({ cpus: 2, ramBytes: 0 });
  const cpu = attachCpu(handle, 0);
  checkHalted(cpu);
  haltMachine(cpu, HALT_PANIC);
  haltMachine(boot, HALT_DEADLOCK);
  assert.equal(readOnce(boot, MACHINE, Machine.halted), HALT_PANIC);
  assert.throws(() => {
    checkHalted(cpu);
  }, MachineHalted);
  setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
  assert.throws(() => {
    schedule(cpu);
  }, MachineHalted);
  assert.throws(() => {
    for (let spins = 0; ; spins++) cpuRelax(cpu, spins);
  }, MachineHalted);
  assert.equal(cpuArea(0), cpu.area);
});
