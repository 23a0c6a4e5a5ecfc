/**
 * `faultline conform` used as it is meant to be, and what it says to input it cannot use.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';

import type { ConformResultFile } from '../../src/report/conform-result.js';
import { faultline, fileIn, refusalOf, scratchFolder, sharedFaultline } from '../support/cli.js';

const FOLDER = scratchFolder();

const attach = { op: 'attach', list: 1, result: 0, events: [] };
const map = { op: 'mmap', at: 0, n: 1, prot: 'rw', flags: 'private,anon', result: 0 };
const read = { op: 'touch', at: 0, n: 1, mode: 'r', result: 0, values: [[1, 0]] };

function corpusFile(name: string, cases: readonly unknown[]): string {
  return fileIn(FOLDER, name, JSON.stringify({ format: 1, cases }));
}

const caseOf = (name: string, category: string, ...steps: unknown[]): unknown => ({
  name,
  category,
  pages: 1,
  steps,
});

const CORPUS = corpusFile('corpus.json', [
  caseOf('a/good', 'fault', attach, map, read),
  caseOf('a/bad', 'fault', attach, map, { ...read, values: [[1, 5]] }),
  caseOf('b/new', 'other', attach, { op: 'ksm_scan' }),
]);

test('a case that differs is shown and counted, and the exit code says so', async () => {
  const { code, stdout, stderr } = await faultline(['conform', CORPUS, '--json', '-']);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /a\/bad \(fault\): failed\n {2}step 2: touch at 0, n 1, mode r\n/);
  assert.match(stderr, /│ all +│ +3 │ +1 │ +1 │ +1 │/);
  assert.match(stderr, /not implemented: ksm_scan \(1 case\)/);
  const result = JSON.parse(stdout) as ConformResultFile;
  assert.deepEqual([result.schema, result.cases, result.passed], ['faultline.conform/1', 3, 1]);
  assert.deepEqual(result.unsupported, [{ name: 'b/new', op: 'ksm_scan' }]);
  assert.deepEqual(result.failed, [
    {
      name: 'a/bad',
      step: 2,
      op: 'touch',
      field: 'values',
      expected: [[1, 5]],
      actual: [[1, 0]],
      more: [],
    },
  ]);
});

test('cases are chosen by name, by glob and by category', async () => {
  const good = await sharedFaultline(['conform', CORPUS, '--case', 'a/go*', '--category', 'fault']);
  assert.equal(good.code, 0, good.stderr);
  assert.match(good.stdout, /│ all +│ +1 │ +1 │ +0 │ +0 │/);
  const beside = await sharedFaultline(['conform', CORPUS, '--case', 'a/good', '--noise', '2']);
  assert.equal(beside.code, 0, beside.stderr);
  assert.match(
    await refusalOf(['conform', CORPUS, '--case', 'nothing']),
    /^faultline: no case is like that; the categories are fault, other$/,
  );
});

test('a file that is no corpus is refused in a line', async () => {
  const bad = corpusFile('bad.json', [{ name: 'x', category: 'y', pages: 1, steps: [{}] }]);
  assert.match(
    await refusalOf(['conform', bad]),
    /bad\.json: \$\.cases\[0\]\.steps\[0\]\.op: is missing$/,
  );
  assert.match(
    await refusalOf(['conform', join(FOLDER, 'none.json')]),
    /none\.json: cannot be read: /,
  );
});
