import assert from 'node:assert/strict';
import { test } from 'node:test';

import { readOnce } from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import { setCurrentState, TASK_RUNNING, TASK_UNINTERRUPTIBLE } from '../../src/machine/sched.js';
import { CpuArea } from '../../src/machine/types.js';
import { EMPTY_WAKE_Q, wakeQAdd, wakeUpQ } from '../../src/machine/wake-q.js';
import { bootCpus } from '../support/machine.js';

const isAsleep = (cpu: Cpu): boolean => readOnce(cpu, cpu.area, CpuArea.state) !== TASK_RUNNING;

function sleepers(count: number): { waker: Cpu; second: Cpu; asleep: Cpu[] } {
  const [waker, second, ...asleep] = bootCpus(2 + count);
  for (const cpu of asleep) setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
  return { waker: waker!, second: second!, asleep };
}

test('everybody in the queue is woken, nobody before that, and nobody else', () => {
  const { waker, asleep } = sleepers(4);
  let queue = EMPTY_WAKE_Q;
  for (const cpu of asleep.slice(0, 3)) queue = wakeQAdd(waker, queue, cpu.area);
  assert.ok(asleep.every(isAsleep));
  wakeUpQ(waker, queue);
  assert.deepEqual(asleep.map(isAsleep), [false, false, false, true]);
  for (const cpu of asleep) assert.equal(readOnce(cpu, cpu.area, CpuArea.wakeNext), 0);
});

test('waking an empty queue does nothing', () => {
  const { waker, asleep } = sleepers(1);
  wakeUpQ(waker, EMPTY_WAKE_Q);
  assert.ok(asleep.every(isAsleep));
});

test('a CPU is in one queue at a time, and the first to wake it will do', () => {
  const { waker, second, asleep } = sleepers(3);
  const [a, b, c] = asleep;
  let mine = wakeQAdd(waker, EMPTY_WAKE_Q, a!.area);
  mine = wakeQAdd(waker, mine, b!.area);
  let other = wakeQAdd(second, EMPTY_WAKE_Q, b!.area);
  assert.equal(other, EMPTY_WAKE_Q, 'b is in the first queue');
  other = wakeQAdd(second, other, c!.area);
  other = wakeQAdd(second, other, a!.area);
  other = wakeQAdd(second, other, c!.area);
  wakeUpQ(second, other);
  assert.deepEqual(asleep.map(isAsleep), [true, true, false]);
  wakeUpQ(waker, mine);
  assert.deepEqual(asleep.map(isAsleep), [false, false, false]);
});

test('whom a queue woke can be put into the next one', () => {
  const { waker, asleep } = sleepers(1);
  for (let i = 0; i < 3; i++) {
    setCurrentState(asleep[0]!, TASK_UNINTERRUPTIBLE);
    wakeUpQ(waker, wakeQAdd(waker, EMPTY_WAKE_Q, asleep[0]!.area));
    assert.ok(!isAsleep(asleep[0]!));
  }
});
