import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import fc from 'fast-check';

import { FaultlineError } from '../../../src/base/bug.js';
import { parseStrace, type StraceCall } from '../../../src/workloads/strace/parse.js';
import { logOf, textOf } from '../../support/strace-logs.js';

/** What one line with this call says. */
function callOf(text: string): StraceCall {
  const { calls } = logOf(`7 ${text}`);
  assert.equal(calls.length, 1);
  return calls[0]!;
}

function assertRejects(text: string, message: string): void {
  assert.throws(
    () => parseStrace(text, 'trace.strace'),
    (error) => {
      assert.ok(error instanceof FaultlineError);
      assert.equal(error.code, 'FAULTLINE_BAD_TRACE');
      assert.equal(error.exitCode, 2);
      assert.equal(error.message, message);
      return true;
    },
  );
}

const AT = '1700000000.000001';

describe('a line of strace', () => {
  test('has a thread, a time, a name, arguments and a result', () => {
    const text = '26117 1795187379.102903 munmap(0x7f587f6c6000, 37127) = 0\n';
    const { calls, completed, lineCount } = parseStrace(text, 'x');
    assert.deepEqual(
      { ...calls[0], head: undefined },
      {
        pid: 26117,
        time: 1795187379.102903,
        name: 'munmap',
        args: ['0x7f587f6c6000', '37127'],
        result: 0,
        error: '',
        startLine: 1,
        endLine: 1,
        head: undefined,
      },
    );
    assert.deepEqual(completed, calls);
    assert.equal(lineCount, 1);
  });

  test('keeps microseconds', () => {
    const { calls } = parseStrace(
      '1 1795187379.102903 a() = 0\n1 1795187379.102904 b() = 0\n',
      'x',
    );
    assert.equal(Math.round((calls[1]!.time - calls[0]!.time) * 1e6), 1);
  });

  test('may end with CRLF, and the last one with nothing', () => {
    const { calls } = parseStrace(`1 ${AT} brk(NULL) = 0x10\r\n1 ${AT} brk(0x20) = 0x20`, 'x');
    assert.deepEqual(
      calls.map(({ result }) => result),
      [0x10, 0x20],
    );
  });

  test('may be the first of a text with a byte order mark', () => {
    const { calls } = parseStrace(`\ufeff1 ${AT} brk(NULL) = 0x10\n`, 'x');
    assert.deepEqual([calls[0]!.pid, calls[0]!.result], [1, 0x10]);
  });

  test('may have its equals sign in a column', () => {
    assert.equal(callOf('brk(NULL)       = 0x55c46a624000').result, 0x55c46a624000);
  });

  test('may have no arguments', () => {
    assert.deepEqual(callOf('munlockall()        = 0').args, []);
  });

  test('may name its thread in brackets', () => {
    const { calls } = parseStrace(`[pid  1234] ${AT} brk(NULL) = 0x10\n`, 'x');
    assert.equal(calls[0]!.pid, 1234);
  });

  test('may name no thread at all', () => {
    const { calls, ends } = parseStrace(
      `${AT} brk(NULL) = 0x10\n${AT} +++ exited with 0 +++\n`,
      'x',
    );
    assert.equal(calls[0]!.pid, 0);
    assert.equal(ends[0]!.pid, 0);
  });
});

describe('arguments', () => {
  const forms: readonly (readonly [string, readonly string[]])[] = [
    ['f(1)', ['1']],
    ['f(1, 2)', ['1', '2']],
    ['f([1, 2], {a=1, b=[2, 3]}, g(4, 5))', ['[1, 2]', '{a=1, b=[2, 3]}', 'g(4, 5)']],
    ['f("a, b)", 1)', ['"a, b)"', '1']],
    ['f("say \\"no\\", ok"..., 1)', ['"say \\"no\\", ok"...', '1']],
    ['f("back\\\\", 1)', ['"back\\\\"', '1']],
    ['f(0x66 /* MADV_???, or (so */, 1)', ['0x66 /* MADV_???, or (so */', '1']],
    ['f(3</lib/a,b(c>, 0)', ['3</lib/a,b(c>', '0']],
    ['f(3<TCP:[1:2->3:4]>, 0)', ['3<TCP:[1:2->3:4]>', '0']],
    ['f(A|21<<MAP_HUGE_SHIFT, 0)', ['A|21<<MAP_HUGE_SHIFT', '0']],
    ['f(<... resuming interrupted clone ...>)', ['<... resuming interrupted clone ...>']],
    ['f({flags=A} => {parent_tid=[5]}, 88)', ['{flags=A} => {parent_tid=[5]}', '88']],
    ['f(a/b, 1)', ['a/b', '1']],
  ];
  for (const [text, args] of forms) {
    test(`${text} has ${args.length}`, () => {
      assert.deepEqual(callOf(`${text} = 0`).args, args);
    });
  }

  test('of megabytes are read in one go', () => {
    const brackets = '['.repeat(300_000) + ']'.repeat(300_000);
    const call = callOf(
      `f(${brackets}, "${'\\"'.repeat(300_000)}", /* ${'*'.repeat(300_000)} */ 1) = 0`,
    );
    assert.equal(call.args.length, 3);
    assert.equal(call.args[0]!.length, 600_000);
  });

  test('come back as they were joined', () => {
    const atom = fc.stringMatching(/^[A-Za-z0-9_|]{1,6}$/);
    const { value } = fc.letrec<{ value: string }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 3, withCrossShrink: true },
        atom,
        fc.string({ maxLength: 8 }).map((text) => JSON.stringify(text)),
        fc.array(tie('value'), { minLength: 1, maxLength: 3 }).map((all) => `[${all.join(', ')}]`),
        fc.array(tie('value'), { minLength: 1, maxLength: 3 }).map((all) => `{${all.join(', ')}}`),
      ),
    }));
    fc.assert(
      fc.property(fc.array(value, { maxLength: 6 }), (args) => {
        assert.deepEqual(callOf(`f(${args.join(', ')}) = 0`).args, args);
      }),
    );
  });
});

describe('a result', () => {
  const forms: readonly (readonly [string, number | undefined, string])[] = [
    ['0', 0, ''],
    ['26118', 26118, ''],
    ['0x7f587f6d0000', 0x7f587f6d0000, ''],
    ['-1 ENOMEM (Cannot allocate memory)', -1, 'ENOMEM'],
    ['-1 ENOMEM (Cannot allocate memory) (INJECTED)', -1, 'ENOMEM'],
    ['-1 EBADF (Bad file descriptor) <0.000012>', -1, 'EBADF'],
    ['?', undefined, ''],
    ['? <unavailable>', undefined, ''],
    ['? ERESTARTSYS (To be restarted if SA_RESTART is set)', undefined, 'ERESTARTSYS'],
    ['0x1 (flags FD_CLOEXEC)', 1, ''],
    ['0 (Timeout) <0.100301>', 0, ''],
    ['0 <0.000012>', 0, ''],
    ['3</dev/null>', 3, ''],
  ];
  for (const [text, value, error] of forms) {
    test(`= ${text} is read`, () => {
      const call = callOf(`f(1) = ${text}`);
      assert.deepEqual([call.result, call.error], [value, error]);
    });
  }
});

describe('an unfinished call', () => {
  test('is joined with its second half', () => {
    const { calls, completed } = logOf(
      '1 mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>',
      '2 munmap(0x1000, 4096 <unfinished ...>',
      '2 <... munmap resumed>) = 0',
      '1 <... mmap resumed>) = 0x7000',
    );
    assert.deepEqual(
      calls.map(({ name, args, result, startLine, endLine }) => [
        name,
        args.length,
        result,
        startLine,
        endLine,
      ]),
      [
        ['mmap', 6, 0x7000, 1, 4],
        ['munmap', 2, 0, 2, 3],
      ],
    );
    assert.deepEqual(
      completed.map(({ name }) => name),
      ['munmap', 'mmap'],
    );
  });

  const halves: readonly (readonly [string, string, readonly string[]])[] = [
    ['brk(0x5000<unfinished ...>', '<... brk resumed>) = 0', ['0x5000']],
    ['vfork( <unfinished ...>', '<... vfork resumed>) = 5', []],
    ['mlock(0x1000, <unfinished ...>', '<... mlock resumed>4096) = 0', ['0x1000', '4096']],
    ['mlock(0x1000 <unfinished ...>', '<... mlock resumed>, 4096) = 0', ['0x1000', '4096']],
    [
      'clone3({flags=CLONE_VM} <unfinished ...>',
      '<... clone3 resumed> => {parent_tid=[7]}, 88) = 7',
      ['{flags=CLONE_VM} => {parent_tid=[7]}', '88'],
    ],
    [
      'f(["a", <unfinished ...>',
      '<... f resumed>"b"], 2)  = 0',
      ['["a","b"]', '2'], // the space before the mark belongs to the mark
    ],
  ];
  for (const [head, tail, args] of halves) {
    test(`may be cut as ${head}`, () => {
      assert.deepEqual(logOf(`1 ${head}`, `1 ${tail}`).calls[0]!.args, args);
    });
  }

  test('has no result if its thread dies in it', () => {
    const { calls, completed, ends } = logOf(
      '1 munmap(0x1000, 4096 <unfinished ...>',
      '1 +++ killed by SIGKILL +++',
      '1 brk(NULL) = 0x10',
    );
    assert.deepEqual([calls[0]!.result, calls[0]!.endLine], [undefined, 0]);
    assert.deepEqual(
      completed.map(({ name }) => name),
      ['brk'],
    );
    assert.equal(ends[0]!.kind, 'killed');
  });

  test('may be told to be so on its only line', () => {
    const { calls } = logOf(
      '1 futex(0x10, FUTEX_WAIT, 2, NULL <unfinished ...>) = ?',
      '2 read(0 <unfinished ...>',
      '2 <... read resumed> <unfinished ...>) = ?',
    );
    assert.deepEqual(calls[0]!.args, ['0x10', 'FUTEX_WAIT', '2', 'NULL']);
    assert.deepEqual(calls[1]!.args, ['0']);
    assert.equal(calls[1]!.result, undefined);
  });

  test('goes on under the id of the first thread if it was an exec', () => {
    const { calls, ends } = logOf(
      '5 execve("/bin/true", ["true"], 0x7ff /* 3 vars */ <unfinished ...>',
      '4 futex(0x10 <unfinished ...>',
      '4 +++ superseded by execve in pid 5 +++',
      '4 <... execve resumed>) = 0',
    );
    assert.deepEqual([calls[0]!.result, calls[0]!.endLine, calls[0]!.pid], [0, 4, 5]);
    assert.equal(calls[1]!.endLine, 0);
    assert.deepEqual([ends[0]!.kind, ends[0]!.pid, ends[0]!.successor], ['superseded', 4, 5]);
  });
});

describe('lines that are no calls', () => {
  test('signals are passed over', () => {
    const { calls, lineCount } = logOf(
      '1 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=2} ---',
      '1 --- stopped by SIGSTOP ---',
    );
    assert.deepEqual([calls.length, lineCount], [0, 2]);
  });

  test('ends are told apart', () => {
    const { ends } = logOf(
      '1 +++ exited with 3 +++',
      '2 +++ killed by SIGSEGV (core dumped) +++',
      '3 +++ superseded by execve in pid 4 +++',
    );
    assert.deepEqual(
      ends.map(({ pid, line, kind, successor }) => [pid, line, kind, successor]),
      [
        [1, 1, 'exited', 0],
        [2, 2, 'killed', 0],
        [3, 3, 'superseded', 4],
      ],
    );
  });
});

describe('a log that names threads only while there are several', () => {
  test('gives the first its name when a line tells it', () => {
    const { calls, ends } = parseStrace(
      [
        `${AT} brk(NULL) = 0x10`,
        `${AT} vfork(strace: Process 101 attached`,
        ') = 101',
        `[pid 101] ${AT} brk(NULL) = 0x20`,
        `[pid 100] ${AT} brk(NULL) = 0x10`,
        `[pid 101] ${AT} +++ exited with 0 +++`,
        `${AT} brk(0x30) = 0x30`,
        `${AT} +++ exited with 0 +++`,
      ].join('\n'),
      'x',
    );
    assert.deepEqual(
      calls.map(({ pid, name, result }) => [pid, name, result]),
      [
        [100, 'brk', 0x10],
        [100, 'vfork', 101],
        [101, 'brk', 0x20],
        [100, 'brk', 0x10],
        [100, 'brk', 0x30],
      ],
    );
    assert.deepEqual(
      ends.map(({ pid }) => pid),
      [101, 100],
    );
  });

  test('knows it by the call it resumes', () => {
    const { calls } = parseStrace(
      [
        `${AT} clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>`,
        `[pid 101] ${AT} brk(NULL) = 0x20`,
        `[pid 100] ${AT} <... clone resumed>) = 101`,
      ].join('\n'),
      'x',
    );
    assert.deepEqual(
      calls.map(({ pid, name, result }) => [pid, name, result]),
      [
        [100, 'clone', 101],
        [101, 'brk', 0x20],
      ],
    );
  });

  test('may leave the first without a name', () => {
    const { calls } = parseStrace(
      [
        'strace: Process 101 attached',
        `${AT} fork(strace: Process 102 attached`,
        ' <unfinished ...>',
        `[pid 102] ${AT} brk(NULL) = 0x20`,
        `[pid 102] ${AT} +++ exited with 0 +++`,
        `${AT} <... fork resumed>) = 102`,
      ].join('\n'),
      'x',
    );
    assert.deepEqual(
      calls.map(({ pid, name, result }) => [pid, name, result]),
      [
        [0, 'fork', 102],
        [102, 'brk', 0x20],
      ],
    );
  });

  test('must not leave open which of several a line is of', () => {
    assertRejects(
      `[pid 1] ${AT} brk(NULL) = 0x10\n[pid 2] ${AT} brk(NULL) = 0x10\n${AT} brk(NULL) = 0x10\n`,
      `trace.strace:3: expected the id of a thread, found "${AT} brk(NULL) = 0x10"`,
    );
  });
});

describe('what is no log is an error that names file and line', () => {
  const FORM = 'a line of strace -f -ttt';
  const cases: readonly (readonly [string, string, string])[] = [
    ['an empty file', '', `1: expected ${FORM}, found an empty file`],
    ['blank lines', '\n\n', `1: expected ${FORM}, found an empty file`],
    [
      'an empty line',
      `1 ${AT} brk(NULL) = 0x1\n\n`,
      `2: expected ${FORM}, found the end of the line`,
    ],
    ['prose', 'hello world\n', `1: expected ${FORM}, found "hello world"`],
    [
      'a broken id',
      `12x4 ${AT} brk(NULL) = 0x1\n`,
      `1: expected ${FORM}, found "12x4 ${AT} brk(NULL) = 0x1"`,
    ],
    [
      'a broken prefix',
      `[pid x] ${AT} brk(NULL) = 0x1\n`,
      `1: expected ${FORM}, found "[pid x] ${AT} brk(NULL) = 0x1"`,
    ],
    [
      'a time of day',
      '1 10:20:30.123456 brk(NULL) = 0x1\n',
      '1: expected a time as -ttt prints it, found "10:20:30.123456 brk(NULL) = 0x1"',
    ],
    [
      'no time',
      '1 brk(NULL) = 0x1\n',
      '1: expected a time as -ttt prints it, found "brk(NULL) = 0x1"',
    ],
    [
      'times since the line before (strace -r)',
      '1 0.000000 brk(NULL) = 0x1\n1 0.000100 brk(NULL) = 0x1\n',
      '1: expected seconds since 1970 (strace -ttt), found 0.000000',
    ],
    [
      'a time without end',
      `1 ${'9'.repeat(400)}.0 brk(NULL) = 0x1\n`,
      `1: expected seconds since 1970 (strace -ttt), found ${'9'.repeat(60)}…`,
    ],
    [
      'an id without end',
      `${'9'.repeat(400)} ${AT} brk(NULL) = 0x1\n`,
      `1: expected the id of a thread, found ${'9'.repeat(60)}…`,
    ],
    [
      'an id that no thread can have',
      `1 ${AT} +++ superseded by execve in pid 2147483648 +++\n`,
      '1: expected the id of a thread, found 2147483648',
    ],
    ['nothing after the time', `1 ${AT}\n`, `1: expected a time as -ttt prints it, found "${AT}"`],
    ['no call', `1 ${AT} brk\n`, `1: expected ${FORM}, found "1 ${AT} brk"`],
    [
      'an open bracket',
      `1 ${AT} f([1, 2) = 0\n`,
      '1: expected f(…) with its brackets closed, found "[1, 2) = 0"',
    ],
    [
      'a wrong bracket',
      `1 ${AT} f(1] = 0\n`,
      '1: expected f(…) with its brackets closed, found "1] = 0"',
    ],
    [
      'crossed brackets',
      `1 ${AT} f({1], 2) = 0\n`,
      '1: expected f(…) with its brackets closed, found "{1], 2) = 0"',
    ],
    [
      'an open string',
      `1 ${AT} f("1) = 0\n`,
      '1: expected f(…) with its brackets closed, found "\\"1) = 0"',
    ],
    [
      'an open comment',
      `1 ${AT} f(1 /* 2) = 0\n1 ${AT} g(*/) = 0\n`,
      '1: expected f(…) with its brackets closed, found "1 /* 2) = 0"',
    ],
    ['no result', `1 ${AT} f(1)\n`, '1: expected the result of f, found ""'],
    ['a broken result', `1 ${AT} f(1) = 0x\n`, '1: expected the result of f, found "= 0x"'],
    ['more after it', `1 ${AT} f(1) = 0 or so\n`, '1: expected the result of f, found "= 0 or so"'],
    [
      'a broken end',
      `1 ${AT} +++ exited with x +++\n`,
      '1: expected +++ exited with N +++ or its like, found "+++ exited with x +++"',
    ],
    [
      'a broken signal',
      `1 ${AT} --- SIGCHLD\n`,
      '1: expected --- SIGNAL {…} ---, found "--- SIGCHLD"',
    ],
    [
      'a broken second half',
      `1 ${AT} <... brk\n`,
      '1: expected <... NAME resumed>, found "<... brk"',
    ],
    [
      'a second half alone',
      `1 ${AT} <... brk resumed>) = 0\n`,
      '1: expected an unfinished brk of thread 1, found none',
    ],
    [
      'a second half of another call',
      `1 ${AT} brk(NULL <unfinished ...>\n1 ${AT} <... mmap resumed>) = 0\n`,
      '2: expected an unfinished mmap of thread 1, found brk of line 1',
    ],
    [
      'a second half of another thread',
      `1 ${AT} brk(NULL <unfinished ...>\n2 ${AT} <... brk resumed>) = 0\n`,
      '2: expected an unfinished brk of thread 2, found none',
    ],
    [
      'a call inside another',
      `1 ${AT} brk(NULL <unfinished ...>\n1 ${AT} brk(NULL) = 0\n`,
      '2: expected the rest of brk of line 1 of thread 1, found "brk(NULL) = 0"',
    ],
    [
      'a long line',
      `1 ${AT} ${'x'.repeat(1000)}\n`,
      `1: expected ${FORM}, found "1 ${AT} ${'x'.repeat(40)}…"`,
    ],
  ];
  for (const [title, text, message] of cases) {
    test(title, () => {
      assertRejects(text, `trace.strace:${message}`);
    });
  }

  test('any other text, in one line', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const log = `${textOf('1 brk(NULL) = 0x10')}${text}`;
        try {
          parseStrace(log, 'trace.strace');
        } catch (error) {
          assert.ok(error instanceof FaultlineError);
          assert.match(error.message, /^trace\.strace:[0-9]+: expected .*, found .*$/);
        }
      }),
    );
  });
});
