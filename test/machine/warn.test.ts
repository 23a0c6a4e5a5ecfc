import assert from 'node:assert/strict';
import { test } from 'node:test';

import { TEXT_CHARACTERS, TEXTS_MAX } from '../../src/machine/types.js';
import { warn, warningCount, warningTexts } from '../../src/machine/warn.js';
import { WARNINGS, warnOften } from '../programs/sched.js';
import { programUrl, runProgram } from '../support/crew.js';
import { bootCpu, bootCpus } from '../support/machine.js';

test('a warning names its CPU and is there for all to read, in the order they came', () => {
  const [first, second] = bootCpus(2);
  warn(first!, 'one');
  warn(second!, 'two');
  warn(first!, 'drei – ∞');
  assert.equal(warningCount(second!), 3);
  assert.deepEqual(warningTexts(second!), ['cpu 0: one', 'cpu 1: two', 'cpu 0: drei – ∞']);
});

test('all warnings are counted, the first are kept, and a long text is cut', () => {
  const cpu = bootCpu();
  for (let i = 0; i < TEXTS_MAX + 5; i++) warn(cpu, `${i} ${'x'.repeat(400)}`);
  assert.equal(warningCount(cpu), TEXTS_MAX + 5);
  const texts = warningTexts(cpu);
  assert.equal(texts.length, TEXTS_MAX);
  texts.forEach((text, i) => {
    assert.equal(text.length, TEXT_CHARACTERS);
    assert.ok(text.startsWith(`cpu 0: ${i} x`));
  });
});

test('warnings of several workers at once are all counted, and none is mixed with another', async () => {
  const { machine } = await runProgram({
    cpus: 4,
    module: programUrl('sched'),
    entry: warnOften.name,
  });
  assert.equal(warningCount(machine.cpu), 4 * WARNINGS);
  const texts = warningTexts(machine.cpu);
  assert.equal(texts.length, TEXTS_MAX);
  assert.equal(new Set(texts).size, TEXTS_MAX);
  for (const text of texts) {
    const cpu = /^cpu (\d): warning \d+ (\.*)$/.exec(text);
    assert.equal(cpu?.[2]?.length, Number(cpu?.[1]) * 10, text);
  }
});
