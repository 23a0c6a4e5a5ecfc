import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import type { StracePlan } from '../../../src/workloads/strace/plan.js';
import { planOf } from '../../support/strace-logs.js';
import { NaiveReplay } from '../../support/strace-replay.js';

const ANONYMOUS = 'PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0';
const HOLE = '-1 ENOMEM (Cannot allocate memory)';

/** The plan, after it has been replayed without a contradiction. */
function replayed(...lines: readonly string[]): StracePlan {
  const plan = planOf(...lines);
  assert.deepEqual(plan.skipped, []);
  new NaiveReplay(plan).run(() => 0);
  return plan;
}

/** Images in pages: `[first, end]` of each range, for each mm. */
function imagesOf(plan: StracePlan): number[][][] {
  return plan.mms.map(({ image }) => image.map(({ start, end }) => [start / 4096, end / 4096]));
}

/** What brought each mm about: its origin, line, and break. */
function originsOf(plan: StracePlan): (readonly [string, number, number])[] {
  return plan.mms.map(({ origin, line, startBrk }) => [origin, line, startBrk] as const);
}

function kindsOf(plan: StracePlan, task: number): string[] {
  return plan.tasks[task]!.operations.map(({ action }) => action.kind);
}

describe('an exec', () => {
  test('is what a process begins with, and its first break is its own', () => {
    const plan = replayed('1 brk(NULL) = 0x5000', '1 brk(0x7000) = 0x7000');
    assert.deepEqual(originsOf(plan), [['exec', 1, 0x5000]]);
    assert.deepEqual(plan.tasks[0]!.operations[0]!.action, {
      kind: 'exec',
      newMm: 0,
      startBrk: 0x5000,
    });
    assert.equal(plan.tasks[0]!.operations[0]!.mm, -1);
    assert.equal(plan.tasks[0]!.operations[1]!.mm, 0);
  });

  test('is inferred when the break is not the known one', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 brk(0x7000) = 0x7000',
      '1 brk(NULL) = 0x7000',
      '1 brk(NULL) = 0x9000',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['exec', 4, 0x9000],
    ]);
    assert.deepEqual(kindsOf(plan, 0), ['exec', 'brk', 'brk', 'brk', 'exec', 'brk', 'exit']);
  });

  test('may be asked late for its break', () => {
    const plan = replayed(`1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x70000`, '1 brk(NULL) = 0x5000');
    assert.deepEqual(originsOf(plan), [['exec', 1, 0x5000]]);
  });

  test('that is in the log is taken from there', () => {
    const plan = replayed(
      '1 execve("/bin/sh", ["sh"], 0x7fff /* 9 vars */) = 0',
      '1 brk(NULL) = 0x5000',
      '1 execve("/usr/bin/env", ["env"], 0x7fff) = -1 ENOENT (No such file or directory)',
      '1 execve("/bin/env", ["env"], 0x7fff) = 0',
      '1 brk(NULL) = 0x5000',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['exec', 4, 0x5000],
    ]);
  });

  test('of a forked child leaves the copy', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 brk(0x7000) = 0x7000',
      '1 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 2',
      '2 brk(0x8000) = 0x8000', // the copy, with the break it was copied with
      '2 brk(NULL) = 0x5000',
      '1 brk(NULL) = 0x7000',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['fork', 3, 0x5000],
      ['exec', 5, 0x5000],
    ]);
    assert.deepEqual(kindsOf(plan, 1), ['brk', 'exec', 'brk', 'exit']);
    assert.equal(plan.mms[1]!.parent, 0);
  });

  test('of a vforked child leaves its parent as it was', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 vfork( <unfinished ...>',
      '2 brk(NULL) = 0x9000',
      '1 <... vfork resumed>) = 2',
      '1 brk(NULL) = 0x5000',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['exec', 3, 0x9000],
    ]);
    assert.deepEqual(kindsOf(plan, 0), ['exec', 'brk', 'vfork', 'brk', 'exit']);
    assert.deepEqual(
      plan.tasks[1]!.operations.map(({ mm }) => mm),
      [0, 1, 1],
    );
  });

  test('is inferred when a vfork has returned and the child goes on', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 clone(child_stack=0x7ff, flags=CLONE_VM|CLONE_VFORK|SIGCHLD <unfinished ...>',
      `2 mmap(NULL, 4096, ${ANONYMOUS}) = 0x70000`, // still on its parent's
      `2 mmap(NULL, 8192, ${ANONYMOUS} <unfinished ...>`, // returns after the vfork: a new program's
      '1 <... clone resumed>) = 2',
      '2 <... mmap resumed>) = 0x70000',
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x71000`,
      '2 brk(NULL) = 0x9000',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['exec', 4, 0x9000],
    ]);
    assert.deepEqual(kindsOf(plan, 1), ['mmap', 'exec', 'mmap', 'brk', 'exit']);
  });

  test('is none if the child of a vfork only exits', () => {
    const plan = replayed(
      '1 vfork( <unfinished ...>',
      '2 exit_group(127 <unfinished ...>',
      '1 <... vfork resumed>) = 2',
      '2 <... exit_group resumed>) = ?',
      '2 +++ exited with 127 +++',
    );
    assert.equal(plan.mms.length, 1);
    assert.deepEqual(kindsOf(plan, 1), ['exit']);
  });

  test('in a thread group ends the other threads', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2',
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 3',
      '3 munlockall() = 0',
      '2 munlockall() = 0',
      '2 +++ exited with 0 +++',
      '1 brk(NULL) = 0x9000',
      '3 +++ exited with 0 +++',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['exec', 7, 0x9000],
    ]);
    assert.deepEqual(
      plan.tasks.map(({ tid, lastLine }) => [tid, lastLine]),
      [
        [1, 8],
        [3, 7],
        [2, 6],
      ],
    );
    assert.deepEqual(kindsOf(plan, 1), ['munlockall', 'exit']);
    assert.equal(plan.totals.processes, 1);
  });

  test('in a thread that is not the first takes over the id of the first', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2',
      '2 munlockall() = 0',
      '1 +++ superseded by execve in pid 2 +++',
      '1 brk(NULL) = 0x5000',
      '1 +++ exited with 0 +++',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['exec', 4, 0x5000],
    ]);
    assert.deepEqual(kindsOf(plan, 0), ['exec', 'brk', 'thread', 'exit']);
    assert.deepEqual(kindsOf(plan, 1), ['munlockall', 'exec', 'brk', 'exit']);
  });

  test('that is in the log and supersedes the first thread is one', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2',
      '2 execve("/bin/true", ["true"], 0x7fff <unfinished ...>',
      '1 +++ superseded by execve in pid 2 +++',
      '1 <... execve resumed>) = 0',
      '1 brk(NULL) = 0x9000',
    );
    assert.deepEqual(originsOf(plan), [
      ['exec', 1, 0x5000],
      ['exec', 4, 0x9000],
    ]);
  });

  test('is not inferred while another process moves the break that both have', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 clone(child_stack=0x7ff, flags=CLONE_VM|SIGCHLD) = 2',
      '1 brk(0x7000 <unfinished ...>',
      '2 brk(NULL) = 0x7000',
      '1 <... brk resumed>) = 0x7000',
    );
    assert.equal(plan.mms.length, 1);
    assert.equal(plan.totals.processes, 2);
  });

  test('is not inferred while other threads go on: then the break moved unseen', () => {
    const plan = planOf(
      '1 brk(NULL) = 0x5000',
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2',
      '1 brk(NULL) = 0x9000',
      '2 munlockall() = 0',
    );
    assert.equal(plan.mms.length, 1);
    assert.deepEqual(
      plan.unexplained.map(({ line, reason }) => [line, reason]),
      [[3, 'answers 0x9000, but by the log the break is 0x5000']],
    );
  });
});

describe('the image of an exec', () => {
  test('is what calls that succeed prove, and no page more', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x100000',
      `1 mmap(NULL, 8192, ${ANONYMOUS}) = 0x72000`,
      '1 mprotect(0x71000, 16384, PROT_READ) = 0', // 71 and 74 around 72, 73
      '1 mlock(0x80fff, 2) = 0', // two pages
      '1 msync(0x83000, 1, MS_SYNC) = 0',
      '1 madvise(0x84000, 4096, MADV_DONTNEED) = 0',
      '1 mincore(0x86000, 4096, [1]) = 0',
      '1 munlock(0x88000, 4096) = 0',
      '1 mremap(0x8a000, 8192, 4096, 0) = 0x8a000', // says nothing of its tail
      '1 mremap(0x90000, 8192, 12288, MREMAP_MAYMOVE) = 0xa0000',
      '1 pkey_mprotect(0x92000, 4096, PROT_READ, 0) = 0',
      '1 madvise(0x94000, 0, MADV_DONTNEED) = 0',
      '1 munmap(0x96000, 4096) = 0',
    );
    assert.deepEqual(imagesOf(plan), [
      [
        [0x71, 0x72],
        [0x74, 0x75],
        [0x80, 0x82],
        [0x83, 0x85],
        [0x86, 0x87],
        [0x88, 0x89],
        [0x8a, 0x8b],
        [0x90, 0x93],
      ],
    ]);
  });

  test('is not what a call fails on', () => {
    const plan = replayed(
      '1 mprotect(0x71000, 8192, PROT_READ) = 0',
      `1 mprotect(0x71000, 12288, PROT_READ) = ${HOLE}`,
      `1 mlock(0x73000, 4096) = ${HOLE}`,
    );
    assert.deepEqual(imagesOf(plan), [[[0x71, 0x73]]]);
  });

  test('is there from the exec on, also if it is proved late', () => {
    const plan = replayed(
      `1 mprotect(0x71000, 8192, PROT_READ) = ${HOLE}`,
      '1 mprotect(0x71000, 4096, PROT_READ) = 0',
    );
    assert.deepEqual(imagesOf(plan), [[[0x71, 0x72]]]);
  });

  test('is learned again for each exec', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 mprotect(0x71000, 4096, PROT_READ) = 0',
      '1 brk(NULL) = 0x9000',
      '1 mprotect(0x72000, 4096, PROT_READ) = 0',
    );
    assert.deepEqual(imagesOf(plan), [[[0x71, 0x72]], [[0x72, 0x73]]]);
  });

  test('includes what a forked child proves, also of its own child', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 fork() = 2',
      '2 mprotect(0x71000, 4096, PROT_READ) = 0',
      '2 fork() = 3',
      '3 mprotect(0x72000, 4096, PROT_READ) = 0',
      '3 brk(NULL) = 0x9000',
      '3 mprotect(0x73000, 4096, PROT_READ) = 0',
    );
    assert.deepEqual(imagesOf(plan), [[[0x71, 0x73]], [], [], [[0x73, 0x74]]]);
  });

  test('does not include what was unmapped on the way to the child that uses it', () => {
    const plan = planOf(
      '1 brk(NULL) = 0x5000',
      '1 munmap(0x71000, 4096) = 0',
      '1 fork() = 2',
      '2 mprotect(0x71000, 4096, PROT_READ) = 0',
      '2 mprotect(0x72000, 4096, PROT_READ) = 0',
    );
    assert.deepEqual(imagesOf(plan), [[[0x72, 0x73]], []]);
    assert.deepEqual(
      plan.unexplained.map(({ line }) => line),
      [4],
    );
  });

  test('includes what a vforked child proves before its exec', () => {
    const plan = replayed(
      '1 brk(NULL) = 0x5000',
      '1 vfork( <unfinished ...>',
      '2 mprotect(0x71000, 4096, PROT_READ) = 0',
      '2 brk(NULL) = 0x9000',
      '2 mprotect(0x72000, 4096, PROT_READ) = 0',
      '1 <... vfork resumed>) = 2',
    );
    assert.deepEqual(imagesOf(plan), [[[0x71, 0x72]], [[0x72, 0x73]]]);
  });

  test('does not include pages that a fork left out', () => {
    const plan = planOf(
      `1 mmap(NULL, 8192, ${ANONYMOUS}) = 0x71000`,
      '1 madvise(0x71000, 4096, MADV_DONTFORK) = 0',
      '1 fork() = 2',
      '2 mprotect(0x72000, 4096, PROT_READ) = 0',
      `2 mprotect(0x71000, 8192, PROT_READ) = ${HOLE}`,
      '1 madvise(0x71000, 4096, MADV_DOFORK) = 0',
      '1 fork() = 3',
      '3 mprotect(0x71000, 8192, PROT_READ) = 0',
    );
    assert.deepEqual(plan.unexplained, []);
    assert.deepEqual(imagesOf(plan), [[], [], []]);
  });

  test('is not learned from the traces of a call that cannot have been', () => {
    const plan = planOf(
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x71000`,
      `1 mmap(NULL, 8192, ${ANONYMOUS}) = 0x71000`, // cannot be: 71 is mapped
      '1 mprotect(0x71000, 8192, PROT_READ) = 0',
    );
    assert.deepEqual(
      plan.unexplained.map(({ line }) => line),
      [2, 3],
    );
    assert.deepEqual(imagesOf(plan), [[]]);
  });
});
