import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import type { StracePlan } from '../../../src/workloads/strace/plan.js';
import { planOf } from '../../support/strace-logs.js';
import { NaiveReplay } from '../../support/strace-replay.js';

const ANONYMOUS = 'PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0';
const THREAD = 'clone3({flags=CLONE_VM|CLONE_THREAD}, 88)';
const HOLE = '-1 ENOMEM (Cannot allocate memory)';

/** The waits of the call at a line, as lines: whose operations must be complete. */
function waitedLines(plan: StracePlan, line: number): number[] {
  const all = plan.tasks.flatMap(({ operations }) => operations);
  const operation = all.find(
    ({ line: at, action: { kind } }) => at === line && kind !== 'exec' && kind !== 'exit',
  );
  assert.ok(operation !== undefined, `no operation at line ${line}`);
  return operation.waits.map(({ task, count }) => plan.tasks[task]!.operations[count - 1]!.line);
}

/** The plan, after it has been replayed in several orders. */
function replayed(...lines: readonly string[]): StracePlan {
  const plan = planOf(...lines);
  assert.deepEqual([...plan.skipped, ...plan.unexplained], []);
  for (let seed = 1; seed <= 20; seed++) {
    let state = seed;
    new NaiveReplay(plan).run((count) => {
      state = (state * 1103515245 + 12345) % 2 ** 31;
      return (state >> 8) % count;
    });
  }
  return plan;
}

describe('an operation waits', () => {
  test('for what had ended on its address space before it began, and not for what overlapped', () => {
    const plan = replayed(
      `1 ${THREAD} = 2`,
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x10000`, // 2
      `2 mmap(NULL, 4096, ${ANONYMOUS} <unfinished ...>`, // 3: after 2
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x20000`, // 4: overlaps 3
      '2 <... mmap resumed>) = 0x30000',
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x40000`, // 6: after 3
      `2 mmap(NULL, 4096, ${ANONYMOUS}) = 0x50000`, // 7: after 6
    );
    assert.deepEqual(waitedLines(plan, 3), [2]); // 2 stands for 1, too
    assert.deepEqual(waitedLines(plan, 4), []);
    assert.deepEqual(waitedLines(plan, 6), [3]);
    assert.deepEqual(waitedLines(plan, 7), [6]);
  });

  test('not for what its own earlier waits imply', () => {
    const plan = replayed(
      `1 ${THREAD} = 2`,
      '1 munlockall() = 0',
      '2 munlockall() = 0', // 3: waits for 2
      '2 munlockall() = 0', // 4
      '2 munlockall() = 0', // 5
      '1 munlockall() = 0', // 6: waits for 5 only
      '1 munlockall() = 0', // 7
    );
    assert.deepEqual(waitedLines(plan, 3), [2]);
    assert.deepEqual(waitedLines(plan, 4), []);
    assert.deepEqual(waitedLines(plan, 6), [5]);
    assert.deepEqual(waitedLines(plan, 7), []);
  });

  test('not for what another of its waits implies', () => {
    const plan = replayed(
      `1 ${THREAD} = 2`,
      `1 ${THREAD} = 3`,
      '1 munlockall() = 0',
      '2 munlockall() = 0', // 4: waits for 3
      '3 munlockall() = 0', // 5: waits for 4, which waited for 3
    );
    assert.deepEqual(waitedLines(plan, 5), [4, 2]);
  });

  test('not for calls on other address spaces', () => {
    const plan = replayed(
      '1 fork() = 2',
      '1 munlockall() = 0',
      '2 munlockall() = 0',
      '2 munlockall() = 0',
      '1 munlockall() = 0',
    );
    assert.deepEqual(waitedLines(plan, 3), [1]);
    assert.deepEqual(waitedLines(plan, 4), []);
    assert.deepEqual(waitedLines(plan, 5), []);
  });

  test('for the call that made its task, also if that returns later', () => {
    const plan = replayed(
      '1 munlockall() = 0',
      '1 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>',
      '2 munlockall() = 0',
      '2 munlockall() = 0',
      '1 <... clone resumed>) = 2',
    );
    assert.deepEqual(waitedLines(plan, 3), [2]);
    assert.deepEqual(waitedLines(plan, 4), []);
  });

  test('for no more than the call that made its task, if that implies the rest', () => {
    const plan = replayed(
      `1 ${THREAD} = 2`,
      '2 munlockall() = 0',
      '1 clone3({flags=CLONE_VM|CLONE_THREAD} <unfinished ...>', // 3: after 2
      '3 munlockall() = 0', // 4
      '1 <... clone3 resumed>, 88) = 3',
    );
    assert.deepEqual(waitedLines(plan, 3), [2]);
    assert.deepEqual(waitedLines(plan, 4), [3]);
  });

  test('on the address space that it is in now, after an exec', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 munlockall() = 0',
      '1 munlockall() = 0',
      '1 vfork( <unfinished ...>',
      '2 brk(NULL) = 0x9000',
      '1 <... vfork resumed>) = 2',
      `2 ${THREAD} = 3`,
      '3 munlockall() = 0', // 8
      '2 munlockall() = 0', // 9
    );
    assert.deepEqual(waitedLines(plan, 9), [8]);
  });

  test('for the call that made its task, even if all it does is exit', () => {
    const plan = replayed('1 fork() = 2', '2 +++ exited with 0 +++');
    assert.deepEqual(plan.tasks[1]!.operations[0]!.waits, [{ task: 0, count: 2 }]);
  });

  test('for a vforked child that shares its address space, until the exec', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 vfork( <unfinished ...>',
      `2 mmap(NULL, 4096, ${ANONYMOUS}) = 0x10000`,
      '2 brk(NULL) = 0x9000',
      '2 munlockall() = 0',
      '1 <... vfork resumed>) = 2',
      '1 munlockall() = 0',
    );
    assert.deepEqual(waitedLines(plan, 7), [3]);
  });
});

describe('calls that overlapped take effect in the order that their answers tell', () => {
  const start = [`1 ${THREAD} = 2`, `1 mmap(NULL, 8192, ${ANONYMOUS}) = 0x10000`];

  test('a mapping comes after the unmapping that made room for it', () => {
    const plan = replayed(
      ...start,
      '1 munmap(0x10000, 8192 <unfinished ...>', // 3
      `2 mmap(NULL, 4096, ${ANONYMOUS}) = 0x11000`, // 4
      '2 mprotect(0x11000, 4096, PROT_READ) = 0',
      '1 <... munmap resumed>) = 0',
      '2 mprotect(0x11000, 4096, PROT_READ) = 0',
    );
    assert.deepEqual(waitedLines(plan, 4), [3]);
  });

  test('a mapping may need more than one unmapping', () => {
    const plan = replayed(
      ...start,
      `1 ${THREAD} = 3`,
      '1 munmap(0x10000, 4096 <unfinished ...>', // 4
      '3 munmap(0x11000, 4096 <unfinished ...>', // 5
      `2 mmap(NULL, 8192, ${ANONYMOUS}) = 0x10000`, // 6
      '3 <... munmap resumed>) = 0',
      '1 <... munmap resumed>) = 0',
      '2 mprotect(0x10000, 8192, PROT_READ) = 0',
    );
    assert.deepEqual(waitedLines(plan, 6), [4, 5]);
  });

  test('a call that succeeded on pages comes before their unmapping', () => {
    const plan = replayed(
      ...start,
      '2 madvise(0x10000, 8192, MADV_DONTNEED <unfinished ...>', // 3
      '1 munmap(0x10000, 8192) = 0', // 4
      '2 <... madvise resumed>) = 0',
    );
    assert.deepEqual(waitedLines(plan, 4), [3]);
  });

  test('a call that failed on pages comes after their unmapping', () => {
    const plan = replayed(
      ...start,
      '1 munmap(0x10000, 8192 <unfinished ...>', // 3
      `2 madvise(0x10000, 8192, MADV_DONTNEED) = ${HOLE}`, // 4
      '1 <... munmap resumed>) = 0',
    );
    assert.deepEqual(waitedLines(plan, 4), [3]);
  });

  test('a break is asked for before or after it moves', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      `1 ${THREAD} = 2`,
      '1 brk(0x7000 <unfinished ...>', // 3
      '2 brk(NULL) = 0x7000', // 4: after 3
      '1 <... brk resumed>) = 0x7000',
      '2 brk(NULL <unfinished ...>', // 6
      '1 brk(0x9000) = 0x9000', // 7: after 6
      '2 <... brk resumed>) = 0x7000',
    );
    assert.deepEqual(waitedLines(plan, 4), [3]);
    assert.deepEqual(waitedLines(plan, 7), [6]);
    assert.equal(plan.mms.length, 1);
  });

  test('a mapping that another could have prevented comes before it only if it then still fits', () => {
    const plan = replayed(
      ...start,
      '2 mremap(0x10000, 8192, 12288, 0 <unfinished ...>', // 3: grows into 12
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x12000`, // 4
      '1 munmap(0x12000, 4096) = 0', // 5
      '2 <... mremap resumed>) = 0x10000',
    );
    assert.deepEqual(waitedLines(plan, 4), []);
    assert.deepEqual(waitedLines(plan, 3), [5]);
  });

  test('calls on different pages keep no order', () => {
    const plan = replayed(
      ...start,
      '1 munmap(0x10000, 4096 <unfinished ...>',
      '2 mprotect(0x11000, 4096, PROT_READ) = 0', // 4
      '1 <... munmap resumed>) = 0',
    );
    assert.deepEqual(waitedLines(plan, 4), [2]);
  });

  test('calls that change nothing keep no order', () => {
    const plan = replayed(
      ...start,
      '1 mprotect(0x10000, 4096, PROT_READ <unfinished ...>',
      '2 madvise(0x10000, 4096, MADV_DONTNEED) = 0', // 4
      '1 <... mprotect resumed>) = 0',
    );
    assert.deepEqual(waitedLines(plan, 4), [2]);
  });
});

describe('what overlapped a fork', () => {
  test('comes before or after it, and a replay keeps to that', () => {
    const plan = replayed(
      `1 ${THREAD} = 2`,
      '1 fork( <unfinished ...>', // 2
      `2 mmap(NULL, 4096, ${ANONYMOUS}) = 0x10000`, // 3
      '1 <... fork resumed>) = 3',
      '3 munlockall() = 0',
    );
    assert.deepEqual(waitedLines(plan, 2), [3]);
  });

  test('comes after it if the child maps the same pages', () => {
    const plan = replayed(
      `1 ${THREAD} = 2`,
      '1 fork( <unfinished ...>', // 2
      `2 mmap(NULL, 4096, ${ANONYMOUS}) = 0x10000`, // 3
      '1 <... fork resumed>) = 3',
      `3 mmap(NULL, 4096, ${ANONYMOUS}) = 0x10000`,
    );
    assert.deepEqual(waitedLines(plan, 2), []);
    assert.deepEqual(waitedLines(plan, 3), [2]);
  });

  test('comes before it if the child or its child maps what was unmapped', () => {
    const plan = replayed(
      `1 ${THREAD} = 2`,
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x10000`,
      '1 munmap(0x10000, 4096 <unfinished ...>', // 3
      '2 fork() = 3', // 4
      '1 <... munmap resumed>) = 0',
      '3 fork() = 4',
      `4 mmap(NULL, 4096, ${ANONYMOUS}) = 0x10000`,
    );
    assert.deepEqual(waitedLines(plan, 4), [3]);
  });
});
