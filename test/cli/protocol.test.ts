/**
 * `faultline bench --protocol`: the protocols side by side.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { PROTOCOLS } from '../../src/protocols/registry.js';
import type { BenchResult } from '../../src/report/bench-result.js';
import { resultOf, scratchFolder, sharedFaultline, SHORT } from '../support/cli.js';

const folder = scratchFolder();
const NAMES = PROTOCOLS.map(({ name }) => name);

describe('--protocol', () => {
  test('all: every configuration over each of them, one after the other', async () => {
    const json = join(folder, 'all.json');
    const args = ['bench', '--protocol', 'all', '--sweep', 'range-pages=1,4', '--overlap', '1'];
    const { code, stdout, stderr } = await sharedFaultline([...args, ...SHORT, '--json', json]);
    assert.deepEqual([code, stderr], [0, '']);
    const { points } = JSON.parse(readFileSync(json, 'utf8')) as BenchResult;
    assert.deepEqual(
      points.map(({ protocol, parameters }) => [protocol, parameters.rangePages]),
      [1, 4].flatMap((pages) => NAMES.map((name) => [name, pages])),
    );
    for (const { protocol, faults, invalidations } of points) {
      assert.ok(faults > 0 && invalidations > 0, protocol);
    }
    assertTable(stdout);
  });

  test('NAME: that one alone', async () => {
    const args = ['bench', '--protocol', 'valid-flag', '--range-pages', '1', '--overlap', '1'];
    const { points } = await resultOf([...args, ...SHORT]);
    assert.deepEqual(
      points.map(({ protocol }) => protocol),
      ['valid-flag'],
    );
  });
});

/** Those that are unsafe are marked, with a line of the legend each, and no other. */
function assertTable(text: string): void {
  for (const { name, flaw } of PROTOCOLS) {
    const cell = flaw === undefined ? name : `${name} !`;
    assert.match(text, new RegExp(`│ +[14] │ ${cell} *│`), name);
    const legend = text.split('\n').find((line) => line.startsWith(`!        ${name} `));
    assert.equal(legend?.includes(flaw ?? ''), flaw === undefined ? undefined : true, name);
  }
  assert.doesNotMatch(text, /against pages/, 'no plots where protocols are compared');
}
