import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { bootMachine, initRwsem, kzalloc, lockClass, Rwsem, upRead } from 'faultline';

import { mapStack } from '../../src/host/source-position.js';

/** The stack of what goes wrong in the bundle: a semaphore is given back that nobody holds. */
function stackOfBundle(): string {
  const { cpu } = bootMachine({ cpus: 1, ramBytes: 1 << 20 });
  const sem = kzalloc(cpu, Rwsem);
  initRwsem(cpu, sem, lockClass('test lock'));
  try {
    upRead(cpu, sem);
  } catch (error) {
    return error instanceof Error ? (error.stack ?? '') : '';
  }
  throw new Error('nothing went wrong');
}

describe('a stack trace', () => {
  test('of bundled code is told in terms of the source', () => {
    const stack = stackOfBundle();
    assert.match(stack, /at popHeldSlow .*dist\/kernel\.js:\d+/);
    const mapped = mapStack(stack);
    assert.doesNotMatch(mapped, /kernel\.js/);
    const frame = /at popHeldSlow \((file:.*src\/debug\/held-locks\.ts):(\d+):\d+\)/.exec(mapped);
    assert.ok(frame, mapped);
    const [, url = '', line = ''] = frame;
    const source = readFileSync(fileURLToPath(url), 'utf8').split('\n');
    assert.match(source[Number(line) - 1] ?? '', /bug\(/);
  });

  test('stays as it is where there is no map', () => {
    const frames =
      'Error: x\n    at f (file:///no/such/file.js:1:2)\n    at node:internal/main:3:4';
    assert.equal(mapStack(frames), frames);
  });
});

describe('a bundle', () => {
  for (const name of ['kernel.js', 'kernel.checked.js', 'faultline.turnstile.js']) {
    test(`${name} has constants only where V8 must know what is called`, () => {
      const code = readFileSync(new URL(`../../${name}`, import.meta.url), 'utf8');
      assert.deepEqual(code.match(/^(?:export )?(?:async )?(?:function|class) .*/gm) ?? [], []);
      const [, list = ''] = /^export \{ (.*) \};$/m.exec(code) ?? [];
      const names = list.split(', ');
      assert.ok(names.length > 100);
      // an exported name is read anew at every use, so none is used but to be exported
      for (const one of names) assert.match(one, /^([\w$]+)\$exported as \1$/);
    });
  }
});
