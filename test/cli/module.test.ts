/**
 * Driver files that are kernel modules too: their license decides what they may use.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  faultline,
  fileIn,
  ONE_POINT,
  refusalOf,
  scratchFolder,
  sharedFaultline,
} from '../support/cli.js';

const folder = scratchFolder();
const IMPORT = `import { defineModule, defineSvmDriver } from ${JSON.stringify(import.meta.resolve('faultline'))};\n`;

/** A driver like the real one, in a module with that license that uses these symbols. */
function moduleWith(license: string, ...needs: readonly string[]): string {
  const list = JSON.stringify(needs);
  return `${IMPORT}export const driver = defineSvmDriver({ opsName: 'mine' });
export const module = defineModule({ name: 'mine_module', license: '${license}', needs: ${list} });
`;
}

const bench = (file: string): string[] => ['bench', ...ONE_POINT, '--driver', file];

test('a GPL module may use what the SVM driver uses', async () => {
  const text = moduleWith('GPL', 'mmu_interval_read_begin', 'hmm_range_fault');
  const { code, stderr } = await faultline(bench(fileIn(folder, 'gpl.mjs', text)));
  assert.equal(code, 0, stderr);
});

test('a proprietary module that needs a symbol for GPL modules only is refused, and told which', async () => {
  const text = moduleWith('Proprietary', 'mmu_interval_read_begin', 'hmm_range_fault');
  const message = await refusalOf(bench(fileIn(folder, 'closed.mjs', text)));
  assert.match(message, /: mine_module: Unknown symbol mmu_interval_read_begin \(err -2\)$/);
});

test('a module whose init fails is refused, with what it returned', async () => {
  const text = moduleWith('GPL').replace('needs:', 'init: () => -5, needs:');
  const { code, stderr } = await sharedFaultline(bench(fileIn(folder, 'failing.mjs', text)));
  assert.equal(code, 2, stderr);
  assert.match(stderr, /the module cannot be loaded: mine_module: -EIO$/m);
});
