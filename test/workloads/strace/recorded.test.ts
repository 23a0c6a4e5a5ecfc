import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import fc from 'fast-check';

import type { Operation } from '../../../src/workloads/strace/operations.js';
import { planStrace, type StracePlan } from '../../../src/workloads/strace/plan.js';
import { RECORDED, recordedLog, recordedText } from '../../support/strace-logs.js';
import { NaiveReplay } from '../../support/strace-replay.js';

/** Known of each log beforehand: processes and threads, and how many lived at once. */
const FACTS: Readonly<Record<string, { tasks: number; processes: number; slots: number }>> = {
  fork: { tasks: 13, processes: 13, slots: 3 },
  gcc: { tasks: 5, processes: 5, slots: 3 },
  py: { tasks: 45, processes: 41, slots: 6 },
  'stress-brk': { tasks: 3, processes: 3, slots: 3 },
  xz: { tasks: 3, processes: 1, slots: 3 },
};

/** Operations that are calls of the log, and not what a replay adds to them. */
function callsOf(plan: StracePlan): Operation[] {
  return plan.tasks.flatMap(({ operations }) =>
    operations.filter(({ action }) => action.kind !== 'exec' && action.kind !== 'exit'),
  );
}

/** What a grep would count: lines on which a call of each name begins. */
function grepCounts(text: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [, name] of text.matchAll(/^[0-9]+ [0-9.]+ ([a-z0-9_]+)\(/gm)) {
    counts[name!] = (counts[name!] ?? 0) + 1;
  }
  return counts;
}

/** For each operation, how many operations of each task are complete before it may start. */
function clocksOf(plan: StracePlan): Map<Operation, number[]> {
  const clocks = new Map<Operation, number[]>();
  const clockOf = (operation: Operation): number[] => {
    const known = clocks.get(operation);
    if (known !== undefined) return known;
    const clock = plan.tasks.map(() => 0);
    const before = [{ task: operation.task, count: operation.number }, ...operation.waits];
    for (const { task, count } of before) {
      if (count === 0) continue;
      const earlier = clockOf(plan.tasks[task]!.operations[count - 1]!);
      earlier.forEach((value, index) => (clock[index] = Math.max(clock[index]!, value)));
      clock[task] = Math.max(clock[task]!, count);
    }
    clocks.set(operation, clock);
    return clock;
  };
  // in the order of lines, so that the recursion stays flat
  const all = plan.tasks.flatMap(({ operations }) => operations);
  for (const operation of all.sort((a, b) => a.line - b.line)) clockOf(operation);
  return clocks;
}

for (const name of RECORDED) {
  describe(`the log of ${name}`, () => {
    const text = recordedText(name);
    const log = recordedLog(name);
    const plan = planStrace(log);
    const lines = text.trimEnd().split('\n');

    test('is read whole: every line is a call, half a call, a signal or an end', () => {
      assert.equal(log.lineCount, lines.length);
      const halves = log.calls.filter(({ startLine, endLine }) => endLine > startLine).length;
      const signals = lines.filter((line) => line.includes(' --- ')).length;
      assert.equal(log.calls.length + halves + signals + log.ends.length, lines.length);
    });

    test('is replayed whole: the counts by name are what grep counts, and no call is skipped', () => {
      assert.deepEqual(plan.totals.calls, grepCounts(text));
      assert.deepEqual([plan.totals.notEmulated, plan.totals.unknownCalls], [{}, {}]);
      assert.deepEqual([...plan.skipped, ...plan.unexplained], []);
      const exits = plan.totals.calls['exit_group'] ?? 0;
      assert.equal(callsOf(plan).length, log.calls.length - exits);
    });

    test('has the tasks, processes and slots it is known to have', () => {
      const { tasks, processes, slots } = plan.totals;
      assert.deepEqual({ tasks, processes, slots }, FACTS[name]);
      assert.equal(tasks, new Set(lines.map((line) => line.split(' ')[0])).size);
    });

    test('gives no slot to two tasks at once', () => {
      for (const tasks of plan.slots) {
        for (let i = 1; i < tasks.length; i++) {
          assert.ok(plan.tasks[tasks[i]!]!.firstLine > plan.tasks[tasks[i - 1]!]!.lastLine);
        }
      }
    });

    test('has operations that stand where they say, with the outcome of that line', () => {
      for (const { tasks } of [plan]) {
        for (const [index, { tid, operations }] of tasks.entries()) {
          operations.forEach((operation, number) => {
            assert.deepEqual([operation.task, operation.number], [index, number]);
          });
          for (const { line, endLine, action, expected } of operations) {
            if (action.kind === 'exec' || action.kind === 'exit') continue;
            assert.ok(lines[line - 1]!.startsWith(`${tid} `));
            const result = / = (\S+)/.exec(lines[endLine - 1]!)![1]!;
            assert.equal(expected, Number(result));
          }
        }
      }
    });

    test('has waits for what ended before, for a birth, or for a conflict', () => {
      for (const operation of plan.tasks.flatMap(({ operations }) => operations)) {
        for (const { task, count } of operation.waits) {
          assert.notEqual(task, operation.task);
          const earlier = plan.tasks[task]!.operations[count - 1]!;
          const { kind } = earlier.action;
          const isBirth = kind === 'fork' || kind === 'thread' || kind === 'vfork';
          assert.ok(earlier.endLine < operation.line || isBirth, `line ${operation.line}`);
        }
      }
    });

    test('has no wait that an earlier one of the task implies', () => {
      for (const { operations } of plan.tasks) {
        const waited = new Map<number, number>();
        for (const { waits } of operations) {
          for (const { task, count } of waits) {
            assert.ok(count > (waited.get(task) ?? 0));
            waited.set(task, count);
          }
        }
      }
    });

    test('keeps the order of calls of which one ended before the other began', () => {
      const clocks = clocksOf(plan);
      const calls = callsOf(plan);
      for (const later of calls) {
        const clock = clocks.get(later)!;
        for (const earlier of calls) {
          if (earlier.mm !== later.mm || earlier.endLine >= later.line) continue;
          assert.ok(
            earlier.task === later.task || clock[earlier.task]! > earlier.number,
            `line ${earlier.line} before line ${later.line}`,
          );
        }
      }
    });

    test('has the logged outcomes in any order that keeps the waits', () => {
      fc.assert(
        fc.property(fc.infiniteStream(fc.nat(720719)), (choices) => {
          new NaiveReplay(plan).run((count) => choices.next().value % count);
        }),
        { numRuns: 15 },
      );
    });
  });
}

test('calls of the py log that overlapped may overlap again', () => {
  const plan = planStrace(recordedLog('py'));
  const clocks = clocksOf(plan);
  const at = (line: number): Operation => callsOf(plan).find((one) => one.line === line)!;
  for (const [first, second] of [
    [1514, 1515],
    [1868, 1869],
  ] as const) {
    const [a, b] = [at(first), at(second)];
    assert.equal(a.mm, b.mm);
    assert.ok(clocks.get(a)![b.task]! <= b.number);
    assert.ok(clocks.get(b)![a.task]! <= a.number);
  }
});

test('the py log is a shell that becomes env, a shell, python, and threads of that', () => {
  const plan = planStrace(recordedLog('py'));
  const execs = plan.tasks[0]!.operations.filter(({ action }) => action.kind === 'exec');
  assert.deepEqual(
    execs.slice(0, 4).map(({ line }) => line),
    [1, 29, 62, 90],
  );
  const threads = plan.tasks.filter(({ process }) => process === 0);
  assert.equal(threads.length, 5);
  assert.equal(new Set(threads.map(({ operations }) => operations.at(-1)!.mm)).size, 1);
});

test('the gcc log is vforked children that all become programs of their own', () => {
  const plan = planStrace(recordedLog('gcc'));
  assert.deepEqual(
    plan.mms.map(({ origin }) => origin),
    ['exec', 'exec', 'exec', 'exec', 'exec'],
  );
  for (const { operations } of plan.tasks) assert.equal(operations[0]!.action.kind, 'exec');
  // what the loader protects, and nothing in the log mapped: the program's own data and the loader's
  for (const { image } of plan.mms) assert.equal(image.length, 2);
});
