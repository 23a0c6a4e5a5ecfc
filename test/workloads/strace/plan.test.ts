import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { FaultlineError } from '../../../src/base/bug.js';
import type { Action, Operation } from '../../../src/workloads/strace/operations.js';
import { planStrace, type StracePlan } from '../../../src/workloads/strace/plan.js';
import { logOf, planOf } from '../../support/strace-logs.js';

const ANONYMOUS = 'PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0';

/** Everything that the only task does after its exec, but its exit. */
function operationsOf(...lines: readonly string[]): Operation[] {
  const plan = planOf('1 brk(NULL) = 0x5000', ...lines.map((line) => `1 ${line}`));
  assert.equal(plan.tasks.length, 1);
  return plan.tasks[0]!.operations.slice(2, -1);
}

function kindsOf(plan: StracePlan, task: number): string[] {
  return plan.tasks[task]!.operations.map(({ action }) => action.kind);
}

function unexplainedOf(...lines: readonly string[]): string[] {
  const plan = planOf('1 brk(NULL) = 0x5000', ...lines.map((line) => `1 ${line}`));
  return plan.unexplained.map(({ line, name, reason }) => `${line} ${name} ${reason}`);
}

function skippedOf(...lines: readonly string[]): string[] {
  const plan = planOf('1 brk(NULL) = 0x5000', ...lines.map((line) => `1 ${line}`));
  return plan.skipped.map(({ line, name, reason }) => `${line} ${name} ${reason}`);
}

function assertRejects(line: string, message: string): void {
  assert.throws(
    () => planStrace(logOf(line)),
    (error) => {
      assert.ok(error instanceof FaultlineError);
      assert.equal(error.code, 'FAULTLINE_BAD_TRACE');
      assert.equal(error.message, message);
      return true;
    },
  );
}

describe('a call becomes an operation', () => {
  const cases: readonly (readonly [string, Action, number])[] = [
    [
      `mmap(NULL, 5000, ${ANONYMOUS}) = 0x70000`,
      {
        kind: 'mmap',
        address: 0x70000,
        length: 5000,
        protection: 3,
        flags: 0x22,
        file: -1,
        offset: 0,
      },
      0x70000,
    ],
    [
      'mmap(0x70000, 8192, PROT_NONE, MAP_SHARED|MAP_ANONYMOUS|MAP_FIXED|0x8000 /* x */, -1, 0) = 0x70000',
      {
        kind: 'mmap',
        address: 0x70000,
        length: 8192,
        protection: 0,
        flags: 0x8031,
        file: -1,
        offset: 0,
      },
      0x70000,
    ],
    ['munmap(0x70000, 4096) = 0', { kind: 'munmap', address: 0x70000, length: 4096 }, 0],
    [
      'mprotect(0x70000, 4096, PROT_READ|PROT_EXEC) = 0',
      { kind: 'mprotect', address: 0x70000, length: 4096, protection: 5 },
      0,
    ],
    [
      'pkey_mprotect(0x70000, 4096, PROT_READ, 1) = 0',
      { kind: 'mprotect', address: 0x70000, length: 4096, protection: 1 },
      0,
    ],
    [
      'mremap(0x70000, 4096, 8192, MREMAP_MAYMOVE) = 0x90000',
      {
        kind: 'mremap',
        address: 0x70000,
        oldLength: 4096,
        newLength: 8192,
        flags: 1,
        newAddress: 0x90000,
      },
      0x90000,
    ],
    [
      'madvise(0x70000, 4096, MADV_DONTNEED) = 0',
      { kind: 'madvise', address: 0x70000, length: 4096, advice: 4 },
      0,
    ],
    ['brk(0x7000) = 0x7000', { kind: 'brk', address: 0x7000 }, 0x7000],
    ['mlock(0x70010, 10) = 0', { kind: 'mlock', address: 0x70010, length: 10 }, 0],
    [
      'mlock2(0x70000, 4096, MLOCK_ONFAULT) = 0',
      { kind: 'mlock2', address: 0x70000, length: 4096, flags: 1 },
      0,
    ],
    ['munlock(0x70000, 4096) = 0', { kind: 'munlock', address: 0x70000, length: 4096 }, 0],
    ['mlockall(MCL_CURRENT|MCL_FUTURE) = 0', { kind: 'mlockall', flags: 3 }, 0],
    ['munlockall() = 0', { kind: 'munlockall' }, 0],
    [
      'msync(0x70000, 4096, MS_SYNC|MS_INVALIDATE) = 0',
      { kind: 'msync', address: 0x70000, length: 4096, flags: 6 },
      0,
    ],
    ['mincore(0x70000, 4096, [1]) = 0', { kind: 'mincore', address: 0x70000, length: 4096 }, 0],
  ];
  for (const [text, action, expected] of cases) {
    test(text, () => {
      const [operation] = operationsOf(text);
      assert.deepEqual(operation?.action, action);
      assert.equal(operation.expected, expected);
      assert.equal(operation.line, 2);
      assert.equal(operation.timeMs, 1);
    });
  }

  test('with its arguments as numbers, if the log has them raw', () => {
    const [operation] = operationsOf('mmap(NULL, 0x1000, 0x3, 0x22, 0xffffffff, 0) = 0x70000');
    assert.ok(operation?.action.kind === 'mmap');
    assert.deepEqual([operation.action.protection, operation.action.flags], [3, 0x22]);
  });

  test('with a huge size among its flags', () => {
    const flags = 'MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT';
    const [operation] = operationsOf(`mmap(NULL, 4096, PROT_READ, ${flags}, -1, 0) = 0x40000000`);
    assert.ok(operation?.action.kind === 'mmap');
    assert.equal(operation.action.flags, 0x40022 + 21 * 2 ** 26);
  });

  test('that fails, if the log shows why it must', () => {
    const fixed = 'PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED_NOREPLACE, -1, 0';
    const lines = [
      `mmap(NULL, 8192, ${ANONYMOUS}) = 0x70000`,
      'mprotect(0x71000, 8192, PROT_READ) = -1 ENOMEM (Cannot allocate memory)',
      'madvise(0x70001, 4096, MADV_DONTNEED) = -1 EINVAL (Invalid argument)',
      `mmap(0x71000, 4096, ${fixed}) = -1 EEXIST (File exists)`,
      'mremap(0x90000, 4096, 8192, 0) = -1 EFAULT (Bad address)',
      'munmap(0x70000, 0) = -1 EINVAL (Invalid argument)',
      'msync(0x70000, 4096, MS_SYNC|MS_ASYNC) = -1 EINVAL (Invalid argument)',
      'brk(0x1000) = 0x5000',
      `mmap(0xa000, 4096, ${ANONYMOUS}) = 0xa000`,
      'brk(0xb000) = 0x5000',
      'brk(0xa000) = 0x5000', // one page above the heap stays free
      'brk(0x9000) = 0x9000',
      'mremap(0x70000, 8192, 12288, 0) = 0x70000',
      `mmap(0x73000, 4096, ${ANONYMOUS}) = 0x73000`,
      'mremap(0x70000, 12288, 16384, 0) = -1 ENOMEM (Cannot allocate memory)',
    ];
    const operations = operationsOf(...lines);
    assert.equal(operations.length, lines.length);
    assert.deepEqual(
      operations.slice(1, 7).map(({ expected }) => expected),
      [-12, -22, -17, -14, -22, -22],
    );
    assert.equal(operations.at(-1)?.expected, -12);
  });
});

describe('a call is skipped, with line and reason', () => {
  const map = `mmap(NULL, 8192, ${ANONYMOUS}) = 0x70000`;

  test('if it was interrupted', () => {
    const interrupted = 'msync(0x70000, 4096, MS_SYNC) = ? ERESTARTSYS (To be restarted)';
    assert.deepEqual(skippedOf(map, interrupted, 'munmap(0x70000, 4096 <unfinished ...>'), [
      '3 msync was interrupted (ERESTARTSYS)',
      '4 munmap was never resumed: the thread died in it, or the log ends',
    ]);
  });

  test('if it made no thread', () => {
    assert.deepEqual(
      skippedOf(
        'clone(child_stack=NULL, flags=SIGCHLD) = -1 EAGAIN (Resource temporarily unavailable)',
      ),
      ['2 clone fails with EAGAIN'],
    );
  });

  test('if it made a thread that never appears', () => {
    assert.deepEqual(skippedOf('clone(child_stack=NULL, flags=SIGCHLD) = 2'), [
      '2 clone makes thread 2, which never appears in the log',
    ]);
  });
});

describe('a call is replayed although its outcome does not follow from the log', () => {
  const map = `mmap(NULL, 8192, ${ANONYMOUS}) = 0x70000`;

  test('if a limit refused it', () => {
    assert.deepEqual(
      unexplainedOf(
        map,
        'mlock(0x70000, 4096) = -1 EAGAIN (Resource temporarily unavailable)',
        'brk(0x9000) = 0x5000',
        'mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = -1 ENOMEM (Cannot allocate memory)',
        'mlock(0x70000, 4096) = -1 EWHATEVER (Not known to us)',
      ),
      [
        '3 mlock fails with EAGAIN, for a reason that is not in the log',
        '4 brk answers 0x5000, but by the log the break is 0x9000',
        '5 mmap fails with ENOMEM, for a reason that is not in the log',
        '6 mlock fails with EWHATEVER, for a reason that is not in the log',
      ],
    );
  });

  test('if a file refused it', () => {
    assert.deepEqual(
      unexplainedOf(
        'mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3, 0) = -1 ENODEV (No such device)',
        'mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0) = -1 EBADF (Bad file descriptor)',
      ),
      [
        '2 mmap fails with ENODEV, and what the file allows is not in the log',
        '3 mmap fails with EBADF, and what the file allows is not in the log',
      ],
    );
  });

  test('if a privilege was missing, or the error has no name', () => {
    assert.deepEqual(
      unexplainedOf(
        'mlock(0x70000, 4096) = -1 EPERM (Operation not permitted)',
        'munlockall() = -1 (errno 531)',
        'madvise(0x70000, 4096, MADV_DONTNEED) = 0', // the refused call says nothing of the page
      ),
      [
        '2 mlock fails with EPERM, for a reason that is not in the log',
        '3 munlockall fails with an unknown error, for a reason that is not in the log',
      ],
    );
  });

  const outside: readonly (readonly [string, boolean])[] = [
    ['mlock(0x70000, 4096) = -1 ENOMEM (x)', true],
    ['mprotect(0x70000, 4096, PROT_READ|PROT_WRITE) = -1 ENOMEM (x)', true],
    ['mprotect(0x70000, 4096, PROT_READ) = -1 ENOMEM (x)', false],
    ['mprotect(0x70000, 4096, PROT_READ) = -1 EACCES (x)', true],
    ['msync(0x70000, 4096, MS_SYNC) = -1 ENOMEM (x)', false],
    ['msync(0x70000, 4096, MS_SYNC) = -1 EBUSY (x)', true],
    ['mincore(0x70000, 4096, NULL) = -1 ENOMEM (x)', false],
    ['mincore(0x70000, 4096, NULL) = -1 EFAULT (x)', true],
    ['mremap(0x70000, 4096, 8192, MREMAP_MAYMOVE) = -1 ENOMEM (x)', true],
    ['mremap(0x70000, 4096, 8192, MREMAP_MAYMOVE) = -1 EFAULT (x)', false],
    ['madvise(0x70000, 4096, MADV_DONTNEED) = -1 EBADF (x)', true],
    ['mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = -1 EACCES (x)', true],
    [`mmap(NULL, 4096, ${ANONYMOUS}) = -1 ENOMEM (x)`, true],
    [`mmap(NULL, 4096, ${ANONYMOUS}) = -1 EEXIST (x)`, false],
    [`mmap(NULL, 4096, ${ANONYMOUS}) = 0x70000`, false],
    ['mprotect(0x70000, 8193, PROT_READ) = 0', false],
    ['brk(0x7000) = 0x5000', true],
    ['brk(0x7000) = 0x6000', false],
  ];
  for (const [text, isOutside] of outside) {
    test(`${text} ${isOutside ? 'has a reason outside the log' : 'contradicts the log'}`, () => {
      const hole = 'munmap(0x72000, 4096) = 0';
      const lines = ['brk(NULL) = 0x5000', map, hole, text].map((line) => `1 ${line}`);
      const [unexplained, ...others] = planOf(...lines).unexplained;
      assert.deepEqual([unexplained?.line, unexplained?.isOutside], [4, isOutside]);
      assert.deepEqual(others, []);
    });
  }

  test('if something that is not in the log must have happened before', () => {
    assert.deepEqual(
      unexplainedOf(
        map,
        'munmap(0x70000, 4096) = 0',
        'mprotect(0x70000, 4096, PROT_READ) = 0',
        `mmap(NULL, 4096, ${ANONYMOUS}) = 0x71000`,
      ),
      [
        '4 mprotect succeeds, but by the log it had to fail with ENOMEM',
        '5 mmap succeeds, but by the log it had to fail with EEXIST',
      ],
    );
  });
});

describe('calls are counted', () => {
  test('by name, those that are not emulated and those on no memory apart', () => {
    const { totals } = planOf(
      '1 brk(NULL) = 0x5000',
      '1 shmat(3, NULL, 0) = 0x7000',
      '1 shmat(4, NULL, 0) = 0x8000',
      '1 read(0, "", 1) = 0',
      '1 madvise(0x9000, 4096, MADV_REMOVE) = -1 EINVAL (Invalid argument)',
      '1 madvise(0x9000, 4096, 0x66 /* MADV_??? */) = 0',
      '1 brk(NULL) = 0x5000',
      '1 munmap(0x0, 0) = -1 EPERM (Operation not permitted)',
      '1 exit_group(0) = ?',
      '1 +++ exited with 0 +++',
    );
    assert.deepEqual(totals.calls, { brk: 2, munmap: 1, exit_group: 1 });
    assert.deepEqual(totals.notEmulated, {
      shmat: 2,
      'madvise(MADV_REMOVE)': 1,
      'madvise(0x66)': 1,
    });
    assert.deepEqual(totals.unknownCalls, { read: 1 });
    assert.equal(totals.skippedCalls, 0);
    assert.equal(totals.operations, 5);
    assert.equal(totals.durationMs, 9);
  });
});

describe('a plan is refused, naming file and line', () => {
  const cases: readonly (readonly [string, string, string])[] = [
    [
      'an unknown flag',
      '1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_NEW, -1, 0) = 0x7000',
      'expected a flag that mmap has, found "MAP_NEW"',
    ],
    [
      'an unknown advice',
      '1 madvise(0x7000, 4096, MADV_NEW) = 0',
      'expected a flag that madvise has, found "MADV_NEW"',
    ],
    [
      'a flag of another call',
      '1 mprotect(0x7000, 4096, MAP_PRIVATE) = 0',
      'expected a flag that mprotect has, found "MAP_PRIVATE"',
    ],
    [
      'an unknown clone flag',
      '1 clone(child_stack=NULL, flags=CLONE_NEW|SIGCHLD) = 2',
      'expected a flag that clone has, found "CLONE_NEW"',
    ],
    [
      'a clone without flags',
      '1 clone3(0x7fff, 88) = 2',
      'expected the flags of clone3, found none',
    ],
    [
      'a broken number',
      '1 munmap(0x70zz, 4096) = 0',
      'expected a number in munmap, found "0x70zz"',
    ],
    [
      'a negative offset',
      '1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, -4096) = 0x7000',
      'expected no negative number in mmap, found "-4096"',
    ],
    [
      'a negative length',
      '1 mmap(NULL, -4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7000',
      'expected no negative number in mmap, found "-4096"',
    ],
    [
      'a negative address',
      '1 mmap(-4096, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = -1 ENOMEM (x)',
      'expected no negative number in mmap, found "-4096"',
    ],
    ['a negative break', '1 brk(-5) = 0x5000', 'expected no negative number in brk, found "-5"'],
    [
      'a negative flag',
      '1 mprotect(0x7000, 4096, PROT_READ|-1) = 0',
      'expected a flag that mprotect has, found "-1"',
    ],
    [
      'a number beyond 64 bits',
      `1 munmap(0x7000, ${'9'.repeat(400)}) = 0`,
      `expected a number in munmap, found "${'9'.repeat(60)}…"`,
    ],
    [
      'a broken descriptor',
      '1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, x, 0) = 0x7000',
      'expected a file descriptor, found "x"',
    ],
    ['too few arguments', '1 munmap(0x7000) = 0', 'expected munmap with 2 arguments, found 1'],
    [
      'too many arguments',
      '1 mremap(1, 2, 3, MREMAP_MAYMOVE, 5, 6) = 0x7000',
      'expected mremap with 4 to 5 arguments, found 6',
    ],
  ];
  for (const [title, line, message] of cases) {
    test(title, () => {
      assertRejects(line, `trace.strace:1: ${message}`);
    });
  }

  test('a call of a thread that an exec has ended', () => {
    const lines = [
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2',
      '2 brk(NULL) = 0x5000',
      '1 execve("/bin/true", ["true"], 0x7fff) = 0',
      '2 brk(NULL) = 0x5000',
    ];
    assert.throws(
      () => planOf(...lines),
      /^FaultlineError: trace\.strace:4: expected no call of thread 2 \(the exec .* line 3 ended it\)/,
    );
  });
});

describe('files', () => {
  const at = (place: string, fd: number, offset: string, length: number, result: string): string =>
    `mmap(${place}, ${length}, PROT_READ, MAP_PRIVATE, ${fd}, ${offset}) = ${result}`;

  test('begin where a descriptor is mapped from its beginning to nowhere in particular', () => {
    const plan = planOf(
      `1 ${at('NULL', 3, '0', 10000, '0x10000')}`,
      '1 mmap(0x11000, 8192, PROT_READ, MAP_PRIVATE|MAP_FIXED, 3, 0x1000) = 0x11000',
      '1 mmap(0x12000, 4096, PROT_READ, MAP_PRIVATE|MAP_FIXED, 3, 0x5000) = 0x12000',
      `1 ${at('NULL', 4, '0', 100, '0x20000')}`,
      `1 ${at('NULL', 3, '0', 100, '0x30000')}`,
      `1 ${at('NULL', 5, '0x2000', 100, '0x40000')}`,
      `1 mmap(NULL, 4096, ${ANONYMOUS}) = 0x50000`,
    );
    const files = plan.tasks[0]!.operations.flatMap(({ action }) =>
      action.kind === 'mmap' ? [action.file] : [],
    );
    assert.deepEqual(files, [0, 0, 0, 1, 2, 3, -1]);
    assert.deepEqual(
      plan.files.map(({ sizeBytes }) => sizeBytes),
      [0x6000, 0x1000, 0x1000, 0x3000],
    );
  });

  test('are the same for the threads of a process and inherited by a fork, but not by an exec', () => {
    const plan = planOf(
      `1 ${at('NULL', 3, '0', 100, '0x10000')}`,
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2',
      `2 ${at('NULL', 3, '0x1000', 100, '0x20000')}`,
      '1 fork() = 3',
      `3 ${at('NULL', 3, '0x3000', 100, '0x30000')}`,
      '3 execve("/bin/true", ["true"], 0x7fff) = 0',
      `3 ${at('NULL', 3, '0x4000', 100, '0x30000')}`,
    );
    const fileOf = (task: number): number[] =>
      plan.tasks[task]!.operations.flatMap(({ action }) =>
        action.kind === 'mmap' ? [action.file] : [],
      );
    assert.deepEqual([fileOf(0), fileOf(1), fileOf(2)], [[0], [0], [0, 1]]);
    assert.equal(plan.files[0]!.sizeBytes, 0x4000);
  });
});

describe('tasks', () => {
  test('are threads, not ids: an id may be used again', () => {
    const plan = planOf(
      '1 fork() = 2',
      '2 +++ exited with 0 +++',
      '1 fork( <unfinished ...>',
      '2 munlockall() = 0',
      '1 <... fork resumed>) = 2',
      '2 +++ exited with 0 +++',
    );
    assert.deepEqual(
      plan.tasks.map(({ tid, process, firstLine, lastLine }) => [
        tid,
        process,
        firstLine,
        lastLine,
      ]),
      [
        [1, 0, 1, 6],
        [2, 1, 2, 2],
        [2, 2, 4, 6],
      ],
    );
    assert.deepEqual(kindsOf(plan, 0), ['exec', 'fork', 'fork', 'exit']);
    assert.deepEqual(kindsOf(plan, 2), ['munlockall', 'exit']);
  });

  test('are made by forks, vforks and threads, which are told apart by what they share', () => {
    const plan = planOf(
      '1 fork() = 2',
      '2 +++ exited with 0 +++',
      '1 vfork( <unfinished ...>',
      '3 +++ exited with 0 +++',
      '1 <... vfork resumed>) = 3',
      '1 clone(child_stack=0x7ff, flags=CLONE_VM|CLONE_VFORK|SIGCHLD <unfinished ...>', // posix_spawn
      '4 +++ exited with 0 +++',
      '1 <... clone resumed>) = 4',
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 5',
      '5 +++ exited with 0 +++',
      '1 clone(child_stack=NULL, flags=CLONE_VFORK|SIGCHLD <unfinished ...>', // a copy all the same
      '6 +++ exited with 0 +++',
      '1 <... clone resumed>) = 6',
    );
    const births = ['fork', 'vfork', 'vfork', 'thread', 'fork'];
    assert.deepEqual(kindsOf(plan, 0), ['exec', ...births, 'exit']);
  });

  test('whose id two calls return are told apart by which returns first', () => {
    const plan = planOf(
      '1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2',
      '1 fork( <unfinished ...>',
      '2 fork( <unfinished ...>',
      '3 +++ exited with 0 +++',
      '2 <... fork resumed>) = 3',
      '3 munlockall() = 0',
      '1 <... fork resumed>) = 3',
    );
    const parents = plan.tasks.map(({ operations }) => operations[0]!.waits[0]?.task);
    assert.deepEqual(parents, [undefined, 0, 1, 0]);
  });

  test('are made by the last call that returned the id before their first line', () => {
    const plan = planOf('1 fork() = 2', '1 fork() = 2', '2 munlockall() = 0');
    assert.deepEqual(
      plan.skipped.map(({ line, reason }) => [line, reason]),
      [[1, 'makes thread 2, which never appears in the log']],
    );
    assert.equal(plan.tasks[1]!.operations[0]!.line, 3);
  });

  test('run on the lowest slot that is free, and there are as many as ever lived at once', () => {
    const plan = planOf(
      '1 fork() = 2',
      '2 fork() = 3',
      '3 munlockall() = 0',
      '2 +++ exited with 0 +++',
      '1 fork() = 4',
      '4 +++ exited with 0 +++',
      '3 +++ exited with 0 +++',
      '1 fork() = 5',
      '5 +++ exited with 0 +++',
    );
    assert.deepEqual(
      plan.tasks.map(({ slot }) => slot),
      [0, 1, 2, 1, 1],
    );
    assert.deepEqual(plan.slots, [[0], [1, 3, 4], [2]]);
    assert.equal(plan.totals.slots, 3);
  });

  test('end with an exit, also if the log does not tell', () => {
    const plan = planOf('1 munlockall() = 0', '1 munlockall() = 0');
    assert.deepEqual(kindsOf(plan, 0), ['exec', 'munlockall', 'munlockall', 'exit']);
    assert.equal(plan.tasks[0]!.operations.at(-1)?.line, 2);
  });
});
