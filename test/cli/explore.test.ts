/**
 * `faultline explore` used as it is meant to be, and what it says to input it cannot use.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { MUTANTS_TABLE, PROGRAMS } from 'faultline';

import type { ExploreResult } from '../../src/report/explore-result.js';
import {
  faultline,
  fileIn,
  impatientFaultline,
  linkPackage,
  refusalOf,
  ROOT,
  scratchFolder,
  sharedFaultline,
  startFaultline,
} from '../support/cli.js';

const folder = scratchFolder();
const EXAMPLES = join(ROOT, 'examples/own-program');
const M_4 = ['explore', 'lt-5', '--mutant', 'M-4', '--seconds', '20'];

test('--list shows every program and every mutant', async () => {
  const { code, stdout, stderr } = await sharedFaultline(['explore', '--list']);
  assert.deepEqual([code, stderr], [0, '']);
  for (const { name, title } of PROGRAMS)
    assert.ok(stdout.includes(` ${name} `) && stdout.includes(title), name);
  for (const { name, description } of MUTANTS_TABLE) {
    assert.ok(stdout.includes(` ${name} `) && stdout.includes(description), name);
  }
});

test('a program without mistakes is exhausted', async () => {
  const args = ['explore', 'lt-5', '--strategy', 'dpor', '--seconds', '20'];
  const { code, stdout, stderr } = await sharedFaultline(args);
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /^SUCCESS: exhausted/m);
});

test('a failure is explained', async () => {
  const { code, stdout, stderr } = await faultline([...M_4, '--strategy', 'dpor']);
  assert.deepEqual([code, stderr], [1, '']);
  assert.match(stdout, /^FAILED \(invariant\): INV-20/m);
  assert.match(stdout, /made small: [0-3] preemptions?$/m);
  assert.match(stdout, /^fails iff .*invalidateSeq/m);
  assert.match(stdout, /CPU0 invalidate +CPU1 fault +where/);
  assert.match(stdout, /mmu-interval-notifier\.ts:\d+$/m);
  assert.match(stdout, /^replay: faultline replay 'lt-5\+M-4[^']*~[0-9a-f]{6}'$/m);
  assert.match(stdout, /^FAILURE: invariant: INV-20/m);
});

for (const how of [
  ['dpor', 'virtual'],
  ['dpor', 'workers'],
  ['portfolio', 'virtual'],
] as const) {
  test(`the result as JSON: ${how.join(', ')}`, async () => {
    const [strategy, engine] = how;
    const args = [...M_4, '--strategy', strategy, '--engine', engine, '--json', '-'];
    const { code, stdout, stderr } = await sharedFaultline(args);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /^FAILURE: invariant: INV-20/m, 'what people read goes to stderr');
    assertResult(JSON.parse(stdout) as ExploreResult, how);
  });
}

function assertResult(result: ExploreResult, [strategy, engine]: readonly [string, string]): void {
  assert.equal(result.schema, 'faultline.explore/1');
  const { program, mutant, seed, exhausted, preemptionBound } = result;
  assert.deepEqual(
    { program, mutant, seed, exhausted, strategy: result.strategy, engine: result.engine },
    { program: 'lt-5', mutant: 'M-4', seed: 1, exhausted: false, strategy, engine },
  );
  assert.ok(result.schedules > 0 && result.seconds > 0 && result.schedulesPerSecond > 0);
  assert.ok(preemptionBound === null || preemptionBound >= 0);
  const failure = result.failures.find(({ invariant }) => invariant === 'INV-20');
  assert.ok(failure !== undefined);
  assert.equal(failure.kind, 'invariant');
  assert.ok(failure.preemptions >= 1 && failure.preemptions <= 3);
  assert.match(failure.criticalPairs.join('\n'), /invalidateSeq/);
  assert.match(failure.diagram, /CPU0.*CPU1/);
  assert.ok(failure.schedule.startsWith('lt-5+M-4'));
  assert.equal(failure.replay, `faultline replay '${failure.schedule}'`);
}

describe("a program of one's own", () => {
  test('without mistakes', async () => {
    const args = ['--program', join(EXAMPLES, 'ticket-lock.mjs'), '--strategy', 'dpor'];
    const { code, stdout, stderr } = await sharedFaultline(['explore', ...args]);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^SUCCESS: exhausted/m);
  });

  test('with one: the line that replays it names the module', async () => {
    const module = join(EXAMPLES, 'broken-ticket-lock.mjs');
    const { code, stdout } = await sharedFaultline(['explore', '--program', module]);
    assert.equal(code, 1);
    assert.match(stdout, /broken-ticket-lock\.mjs:\d+$/m);
    assert.ok(stdout.includes(` --program ${module}\n`));
  });
});

test('Ctrl-C ends a long exploration with what was seen', async () => {
  const args = ['explore', 'rwsem', '--strategy', 'random', '--seconds', '3600'];
  const running = startFaultline(args, { terminal: 120 });
  await running.said(/ [1-9]\d* schedules/);
  running.child.kill('SIGINT');
  const { code, stdout } = await running.done;
  assert.equal(code, 130, stdout);
  assert.match(stdout, /interrupted; no failure until then \([1-9]/);
});

describe('refused:', () => {
  const REFUSED: readonly (readonly [string, RegExp])[] = [
    ['', /needs the name of a program, or --program MODULE/],
    ['lt-5 --program x.mjs', /not both/],
    ['no-such-program', /no program no-such-program; --list/],
    ['lt-5 --mutant M-99', /no mutant M-99; --list/],
    ['lt-5 --strategy luck', /--strategy.*'luck'.*one of random, pct/],
    ['lt-5 --engine steam', /--engine.*'steam'.*one of virtual, workers/],
    ['--program no-such.mjs', /--program no-such\.mjs: no such file$/],
    ['lt-5 --controller stdio --json x', /--controller.*cannot be used with.*--json/],
  ];
  for (const [args, message] of REFUSED) {
    test(`explore ${args}`, async () => {
      const words = args.split(' ').filter((word) => word !== '');
      assert.match(await refusalOf(['explore', ...words]), message);
    });
  }

  for (const [name, text, message] of [
    ['syntax', 'const a = 1;\nexport const program = {;\n', /syntax\.mjs:2: cannot be loaded/],
    ['nothing', 'export const a = 1;\n', /exports no object named 'program'/],
    ['shapeless', "export const program = { name: 'x' };\n", /program\.title is not a text/],
  ] as const) {
    test(`a module with ${name}`, async () => {
      const module = fileIn(folder, `${name}.mjs`, text);
      assert.match(await refusalOf(['explore', '--program', module]), message);
    });
  }
});

describe('a program that misbehaves', () => {
  linkPackage(folder);
  const moduleWith = (name: string, members: string): string =>
    fileIn(
      folder,
      `${name}.mjs`,
      `import {
  cpuRelax, defineProgram, initSpinlock, kzalloc, layout, lockClass, memory, Spinlock, spinLock, task,
} from 'faultline';
const World = layout.struct('world', { a: layout.word });
const run = (cpu, world) => { memory.writeOnce(cpu, world, World.a, 1); };
export const program = defineProgram({
  name: 'mine', title: 'mine', tasks: [task('one', run), task('two', run)],
  setup: (cpu) => kzalloc(cpu, World), ${members}
});\n`,
    );
  const DICE = `tasks: [task('one', (cpu, world) => {
    for (let i = 400 * Math.random(); i > 0; i--) run(cpu, world);
  })]`;
  const KEEPS = `tasks: [task('one', (cpu, world) => spinLock(cpu, world))],
    setup(cpu) { const lock = kzalloc(cpu, Spinlock); initSpinlock(cpu, lock, lockClass('my lock')); return lock; }`;
  const THROWS = `tasks: [task('one', () => {
    throw { toString() { throw new Error('no text'); } };
  })]`;
  /** Those that are no programs; the others fail. */
  const BAD_PROGRAMS = new Set<string>(['setup-forgets', 'dice']);
  for (const [name, members, message] of [
    ['setup-throws', "setup() { throw new Error('no world'); }", /setup of mine: .*no world/],
    ['setup-loops', 'setup() { for (;;); }', /mine is not set up after/],
    ['task-loops', "tasks: [task('one', () => { for (;;); })]", /task .*does not return/],
    ['check-throws', "check() { throw new Error('no check'); }", /FAILED.*no check/],
    ['check-loops', 'check() { for (;;); }', /check .*does not return/],
    ['setup-forgets', 'setup() {}', /the setup of mine returns a value of type undefined/],
    ['null', 'setup: () => 0', /NULL pointer dereference: word \d/],
    ['wild', 'setup: () => -4096', /access outside of the memory: word -/],
    ['dice', DICE, /mine is not deterministic: one schedule, run twice/],
    ['keeps', KEEPS, /one has ended, and still holds my lock/],
    ['throws-thing', THROWS, /died.*something of type object/],
  ] as const) {
    // only tasks run on the other engine in another way
    for (const engine of name === 'task-loops' ? ['virtual', 'workers'] : ['virtual']) {
      test(`${name}, ${engine} engine`, async () => {
        const module = moduleWith(name, members);
        const limits = ['--seconds', '2', '--strategy', 'dpor'];
        const args = ['explore', '--program', module, '--engine', engine, ...limits];
        const run = name.endsWith('-loops') ? impatientFaultline : sharedFaultline;
        const { code, stdout, stderr } = await run(args);
        assert.equal(code, BAD_PROGRAMS.has(name) ? 2 : 1, stdout + stderr);
        assert.match(stdout + stderr, message);
        assert.doesNotMatch(stderr, /\n {4}at /, 'no stack');
      });
    }
  }

  test('a test-and-set loop waits, and is no starvation', async () => {
    const module = moduleWith(
      'test-and-set',
      `tasks: ['one', 'two'].map((name) => task(name, (cpu, world) => {
        for (let i = 0; memory.exchange(cpu, world, World.a, 1) !== 0; i++) cpuRelax(cpu, i);
        memory.storeRelease(cpu, world, World.a, 0);
      }))`,
    );
    const args = ['--strategy', 'dpor', '--seconds', '30'];
    const { code, stdout } = await sharedFaultline(['explore', '--program', module, ...args]);
    assert.deepEqual([code, /^SUCCESS: exhausted/m.test(stdout)], [0, true], stdout);
  });

  test('what it prints is not among the result', async () => {
    const module = moduleWith('loud', "tasks: [task('one', () => { console.log('hello'); })]");
    const args = ['explore', '--program', module, '--json', '-', '--seconds', '1'];
    const { code, stdout, stderr } = await sharedFaultline(args);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^hello$/m);
    assert.equal((JSON.parse(stdout) as { readonly module: string }).module, module);
  });

  test('a check that does not return, in replay', async () => {
    const module = moduleWith('check-loops', 'check() { for (;;); }');
    const args = ['replay', 'mine@0>0~000000', '--program', module];
    const { code, stderr } = await impatientFaultline(args);
    assert.deepEqual([code, /check .*does not return/.test(stderr)], [1, true], stderr);
  });

  test('the library by the name of a file is refused', async () => {
    const library = new URL('../../src/explore/program.js', import.meta.url).href;
    const module = fileIn(
      folder,
      'by-file.mjs',
      `import { defineProgram, task } from '${library}';
export const program = defineProgram({
  name: 'mine', title: 'mine', tasks: [task('one', () => {})], setup: () => 0,
});\n`,
    );
    const refusal = await refusalOf(['explore', '--program', module]);
    assert.match(refusal, /by-file\.mjs: imports .*program\.js, and not 'faultline'/);
  });
});
