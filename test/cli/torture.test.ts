/**
 * `faultline torture` as its users have it.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';

import type { TortureResultFile } from '../../src/report/torture-result.js';
import { TORTURE_TARGETS } from '../../src/torture/targets/registry.js';
import {
  faultline,
  fileIn,
  linkPackage,
  refusalOf,
  scratchFolder,
  sharedFaultline,
  startFaultline,
} from '../support/cli.js';

const folder = scratchFolder();
linkPackage(folder);
const SHORT = ['--duration', '0.6', '--cpus', '4'];

describe('a run', () => {
  test('says what locktorture says, and ends with SUCCESS', async () => {
    const { code, stdout, stderr } = await faultline(['torture', 'rwsem', ...SHORT, '--seed', '7']);
    assert.deepEqual([code, stderr], [0, ''], stdout);
    assert.match(stdout, /^rwsem-torture:--- Start of test: seed=7 nwriters_stress=2 nreaders/m);
    assert.match(stdout, /^rwsem-torture: Writes: {2}Total: \d+ {2}Max\/Min: \d+\/\d+.* Fail: 0$/m);
    assert.match(stdout, /^rwsem-torture: Reads : {2}Total: \d+/m);
    assert.match(stdout, /writers: wait p50 .*, p99\.9 .*, max /);
    assert.match(stdout, /writers: Jain index \d\.\d+, longest starvation /);
    assert.match(stdout, /^--- rwsem: End of test: SUCCESS: seed=7 .* stutter=5 /m);
  });

  test('leaves all of it as JSON, with every option', async () => {
    const args = ['torture', 'spin', 'completion', ...SHORT, '--stat-interval', '0.1'];
    const { code, stdout, stderr } = await sharedFaultline([...args, '--json', '-']);
    assert.equal(code, 0, stderr);
    const file = JSON.parse(stdout) as TortureResultFile;
    assert.equal(file.schema, 'faultline.torture/1');
    assert.equal(file.canary.reported, true);
    assert.deepEqual(
      file.results.map(({ target, verdict }) => [target, verdict]),
      [
        ['spin', 'SUCCESS'],
        ['completion', 'SUCCESS'],
      ],
    );
    assert.equal(file.options['longHold'], 100);
    assert.ok(file.results[0]!.operations['write']! > 0);
    const lines = stderr.match(/^spin-torture: Writes:/gm) ?? [];
    assert.ok(lines.length >= 2, 'statistics meanwhile');
  });

  test('of a lock that is none ends with a report in four parts', async () => {
    const { code, stdout } = await faultline(['torture', 'lock_busted', ...SHORT]);
    assert.equal(code, 1);
    const parts = [
      /^BUG: lock_busted: .* \(INV-39\)$/m,
      /^found by: invariant; safety phase, after .*; seed 1$/m,
      /^Where each CPU was:\n {2}cpu 0 \(writer 0\) [^\n]+$/m,
      /^ {6}at writeInside \(src\/torture\/targets\/exclusion\.ts:\d+:\d+\)$/m,
      /^Who met whom:\n {2}cpu \d \(writer \d\)$/m,
      /^To run it again:\n {2}npx faultline torture lock_busted --cpus 4 --duration 0\.6$/m,
      /^--- lock_busted: End of test: FAILURE: /m,
    ];
    for (const part of parts) assert.match(stdout, part);
  });

  test('is ended by Ctrl-C, with what was measured', async () => {
    const args = ['torture', 'mutex', '--cpus', '4', '--duration', '3600', '--json', '-'];
    const running = startFaultline(args, { terminal: 200 });
    await running.said(/mutex, [1-9]\d* operations/);
    running.child.kill('SIGINT');
    const { code, stdout, stderr } = await running.done;
    assert.equal(code, 130, stderr);
    assert.match(stripVTControlCharacters(stderr), /--- mutex: End of test: INTERRUPTED/);
    const { results, interrupted } = JSON.parse(stdout) as TortureResultFile;
    assert.equal(interrupted, true);
    assert.ok(results[0]!.operations['write']! > 0);
  });
});

test('--list shows every target, with the mistakes it must find', async () => {
  const { code, stdout } = await sharedFaultline(['torture', '--list']);
  assert.equal(code, 0);
  for (const { name, busted = [] } of TORTURE_TARGETS) {
    assert.match(stdout, new RegExp(`│ ${name} .*${busted.join(', ')}`));
  }
});

test('--busted finds each mistake of the target', async () => {
  const { code, stdout } = await sharedFaultline([
    'torture',
    'percpu_rwsem',
    '--busted',
    '--cpus',
    '4',
  ]);
  assert.equal(code, 0, stdout);
  assert.match(stdout, /│ percpu_rwsem │ busted-percpu-rwsem {6}│ invariant │/);
  assert.match(stdout, /│ percpu_rwsem │ busted-percpu-rwsem-read │ invariant │/);
});

describe('what makes no sense is refused in a line:', () => {
  const refusals: readonly [args: readonly string[], message: RegExp][] = [
    [['nothing'], /no target 'nothing'; there are spin, mutex/],
    [['lock'], /target lock needs --lock MODULE/],
    [['spin', '--noise', '10'], /--noise .* integer from 0 to 9/],
    [['spin', '--nwriters-stress', '0'], /spin: these options make 0 members/],
    [['--cpus', '1.5'], /--cpus .* integer/],
    [['lock', '--lock', 'nowhere.mjs'], /--lock nowhere\.mjs: no such file/],
  ];
  for (const [args, message] of refusals) {
    test(args.join(' '), async () => {
      assert.match(await refusalOf(['torture', ...args]), message);
    });
  }

  test('a module without a lock', async () => {
    const file = fileIn(folder, 'empty.mjs', 'export const lock = { opsName: "empty" };\n');
    const said = await refusalOf(['torture', 'lock', '--lock', file]);
    assert.match(said, /lock\.words is not a number from 1 to 256/);
  });
});
