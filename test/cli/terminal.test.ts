/**
 * What people see on terminals of several widths, with and without colours.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';

import { faultline, type Finished, ONE_POINT, SHORT } from '../support/cli.js';

const COLOR = /\x1b\[(?:1|3\d|9\d)m/;
const ARGS = ['bench', ...SHORT, '--sweep', 'overlap=0,1', '--sweep', 'range-pages=1,16'];

/** Lines of tables and plots: all but the header and the legend. */
function drawnLines(text: string): string[] {
  return stripVTControlCharacters(text)
    .split('\n')
    .filter((line) => /[│┌└┤]/.test(line));
}

function widest(lines: readonly string[]): number {
  return Math.max(...lines.map((line) => line.length));
}

const countOf = (text: string, what: string): number => text.split(what).length - 1;

describe('on a terminal', () => {
  const seen = new Map<number, Finished>();
  before(async () => {
    for (const terminal of [80, 120, 220]) seen.set(terminal, await faultline(ARGS, { terminal }));
  });

  for (const [columns, tables] of [
    [80, 3],
    [120, 2],
    [220, 1],
  ] as const) {
    test(`of ${columns} characters the figures are in ${tables} tables, none of them wider`, () => {
      const { code, stdout } = seen.get(columns)!;
      assert.equal(code, 0);
      const lines = drawnLines(stdout);
      assert.ok(
        widest(lines) <= columns,
        lines.find((line) => line.length > columns),
      );
      assert.equal(countOf(stripVTControlCharacters(stdout), '┌'), tables);
      for (const table of stripVTControlCharacters(stdout).split('┌').slice(1)) {
        const rows = drawnLines(`┌${table}`).filter((line) => /^[┌│├└].*[┐│┤┘]$/.test(line));
        assert.equal(new Set(rows.map((row) => row.length)).size, 1, 'columns stand in line');
        assert.match(rows[1]!, /^│ pages │ overlap │/, 'rows say what they are of');
      }
    });
  }

  test('each rate has one plot, with a colour and a name for each series', () => {
    const { stdout } = seen.get(120)!;
    assert.match(stdout, COLOR);
    const text = stripVTControlCharacters(stdout);
    assert.equal(countOf(text, ' against '), 2);
    assert.equal(countOf(text, '█ overlap 0\n'), 2);
    assert.equal(countOf(text, '█ overlap 1\n'), 2);
  });

  test('a progress bar with the time left goes to stderr, and goes away', () => {
    const { stdout, stderr } = seen.get(80)!;
    assert.match(stderr, /100 % · 0s left · fault-invalidate, 16 pages, overlap 1/);
    assert.doesNotMatch(stdout, /% · /);
    const [hide, show, clear] = ['\x1b[?25l', '\x1b[?25h', '\x1b[2K'];
    assert.equal(countOf(stderr, hide), countOf(stderr, show));
    assert.ok(stderr.lastIndexOf(show) > stderr.lastIndexOf(hide), 'the cursor is back');
    assert.ok(stderr.lastIndexOf(clear) > stderr.lastIndexOf('left'), 'the line is empty again');
  });
});

describe('NO_COLOR', () => {
  test('leaves no colour, and gives each series a plot of its own', async () => {
    const { stdout } = await faultline(ARGS, { terminal: 100, env: { NO_COLOR: '1' } });
    assert.doesNotMatch(stdout, COLOR);
    assert.equal(countOf(stdout, ' against '), 4);
    assert.match(stdout, /faults\/s against pages, overlap 1$/m);
  });

  test('means nothing if it is empty', async () => {
    const options = { terminal: 100, env: { NO_COLOR: '', CI: 'true' } }; // nor does CI
    const { stdout } = await faultline(['bench', ...ONE_POINT], options);
    assert.match(stdout, COLOR);
  });
});
