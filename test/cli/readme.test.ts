/**
 * What the readme says of the command: its commands run, its names are those of the output.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import type { BenchPoint } from '../../src/report/bench-result.js';
import { benchTable } from '../../src/report/bench-table.js';
import { ONE_POINT, resultOf, ROOT, sharedFaultline, SHORT } from '../support/cli.js';

const README = readFileSync(join(ROOT, 'README.md'), 'utf8');

/** A section's text, without its title. */
function section(title: string): string {
  const [, rest = ''] = README.split(`\n## ${title}\n`);
  return rest.split('\n## ')[0]!;
}

const BENCHMARK = section('Benchmark');

describe('a command of the section Benchmark does what it should:', () => {
  const commands = [...BENCHMARK.matchAll(/^ {4}npx faultline (.+?)(?: +#.*)?$/gm)].map(
    ([, args]) => args!,
  );
  assert.ok(commands.length >= 4);
  for (const command of commands) {
    test(command, async () => {
      const { code, stdout, stderr } = await sharedFaultline([...command.split(' '), ...SHORT]);
      assert.equal(code, 0, stderr);
      const table = command.includes('--json -') ? stderr : stdout;
      assert.match(table, /│ faults\/s │/);
      if (command.includes('--json -')) JSON.parse(stdout);
    });
  }
});

describe('the table of columns', () => {
  const named = [...BENCHMARK.matchAll(/^\| (`.+?) *\|/gm)].flatMap(([, cell]) =>
    [...cell!.matchAll(/`([^`]+)`/g)].map(([, name]) => name!),
  );

  test('names every column there can be, and no other', async () => {
    const { points } = await resultOf(['bench', 'svm', 'fault-invalidate', ...ONE_POINT]);
    const [one, other] = points as [BenchPoint, BenchPoint];
    const { faultThreads, invalidators, devices, rangePages, arenaPages } = one.parameters;
    const parameters = {
      ...one.parameters,
      faultThreads: faultThreads + 1,
      invalidators: invalidators + 1,
      devices: devices + 1,
      rangePages: rangePages + 1,
      arenaPages: arenaPages + 1,
      overlap: 0,
    };
    const look = { color: false, width: Number.POSITIVE_INFINITY };
    const table = benchTable([one, { ...other, parameters, protocol: 'interval' }], look);
    const [head = ''] = table.split('\n').filter((line) => line.startsWith('│'));
    const columns = head.split('│').map((cell) => cell.trim());
    const shown = new Set(columns.filter((cell) => cell !== ''));
    const isKnown = (name: string): boolean => named.includes(name) || name.startsWith('p99');
    assert.deepEqual(
      [...shown].filter((name) => !isKnown(name)),
      [],
    );
    assert.deepEqual(
      named.filter((name) => !shown.has(name)),
      [],
    );
  });
});

test('exit codes mean the same in the readme and in the help', async () => {
  const { stdout } = await sharedFaultline(['--help']);
  const [, list = ''] = /^Exit codes:\n([^]*?)\n\n/m.exec(stdout) ?? [];
  const inHelp = list
    .replace(/\n {6,}/g, ' ')
    .split('\n')
    .map((line) => line.trim().split(/ {2,}| (?=interrupted)/));
  const inReadme = [...section('Exit codes').matchAll(/^\| (\d+) +\| (.*?) *\|$/gm)];
  assert.deepEqual(
    inHelp.map(([code, meaning]) => [code, meaning]),
    inReadme.map(([, code, meaning]) => [code, meaning]),
  );
});
