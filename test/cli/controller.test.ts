/**
 * `faultline explore --controller stdio`: another program picks who goes next.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';

import { fileIn, impatiently, linkPackage, MAIN, ROOT, scratchFolder } from '../support/cli.js';

interface Message {
  readonly type: 'start' | 'choose' | 'end';
  readonly schema?: string;
  readonly tasks?: readonly string[];
  readonly schedule: number;
  readonly step: number;
  readonly last: number;
  readonly enabled: readonly number[];
  readonly failure: { readonly invariant?: string } | null;
  readonly outcome: string | null;
  readonly string: string;
}

/** What is said to a message: a line, nothing, or null to close stdin. */
type Answer = (message: Message) => string | undefined | null;

interface Talk {
  readonly code: number | null;
  readonly messages: readonly Message[];
  readonly stderr: string;
}

function talk(args: readonly string[], answer: Answer): Promise<Talk> {
  const all = [MAIN, 'explore', ...args, '--controller', 'stdio'];
  const child = spawn(process.execPath, all, { cwd: ROOT, stdio: 'pipe' });
  const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
  const messages: Message[] = [];
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => undefined); // it may have ended
  createInterface({ input: child.stdout }).on('line', (line) => {
    const message = JSON.parse(line) as Message;
    messages.push(message);
    const said = answer(message);
    if (said === null) child.stdin.end();
    else if (said !== undefined) child.stdin.write(`${said}\n`);
  });
  return new Promise((resolve) => {
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ code, messages, stderr });
    });
  });
}

/** Stays with the task that went last, or takes the first that can go. */
const stay = ({ last, enabled }: Message): string =>
  JSON.stringify({ task: enabled.includes(last) ? last : enabled[0] });

test('it drives a program to its failure, again and again', async () => {
  const { code, messages, stderr } = await talk(['lt-5', '--mutant', 'M-4'], (message) => {
    if (message.type === 'start') return undefined;
    if (message.type === 'end') {
      return message.schedule < 200 && message.failure === null ? '{"again":true}' : '{"end":true}';
    }
    // in the n-th schedule, task 1 goes from step n on
    const wanted = message.step >= message.schedule ? 1 : 0;
    return message.enabled.includes(wanted) ? `{"task":${wanted}}` : stay(message);
  });
  assert.equal(stderr, '');
  assert.equal(code, 1);
  const [start] = messages;
  assert.deepEqual(
    [start!.type, start!.schema, start!.tasks],
    ['start', 'faultline.controller/1', ['invalidate', 'fault']],
  );
  const ends = messages.filter(({ type }) => type === 'end');
  assert.ok(ends.length > 1, 'more than one schedule');
  assert.equal(ends.at(-1)!.failure?.invariant, 'INV-20');
  assert.match(ends.at(-1)!.string, /^lt-5\+M-4@[0-9>.]+~[0-9a-f]{6}$/);
});

test('a schedule that does not fail: exit code 0', async () => {
  const { code, messages } = await talk(['lt-5'], (message) => {
    if (message.type === 'start') return undefined;
    return message.type === 'end' ? '{"end":true}' : stay(message);
  });
  assert.equal(code, 0);
  assert.equal(messages.at(-1)!.failure, null);
  assert.ok(messages.at(-1)!.outcome !== null);
});

test('the end of stdin ends it', async () => {
  const { code, messages, stderr } = await talk(['lt-5'], ({ type }) =>
    type === 'choose' ? null : undefined,
  );
  assert.deepEqual([code, stderr, messages.at(-1)!.type], [0, '', 'choose']);
});

describe('a program of one’s own', () => {
  const folder = scratchFolder();
  linkPackage(folder);
  const moduleWith = (name: string, run: string): string =>
    fileIn(
      folder,
      `${name}.mjs`,
      `import { defineProgram, kzalloc, layout, memory, task } from 'faultline';
const World = layout.struct('world', { a: layout.word });
const write = (cpu, world) => memory.writeOnce(cpu, world, World.a, 1);
export const program = defineProgram({
  name: 'mine', title: 'mine', setup: (cpu) => kzalloc(cpu, World),
  tasks: [task('one', (cpu, world) => { ${run} }), task('two', write)],
});\n`,
    );

  test('takes all replies of a long schedule at once', async () => {
    const module = moduleWith('long', 'for (let i = 0; i < 3000; i++) write(cpu, world);');
    const script = [...Array<string>(3000).fill('{"task":0}'), '{"end":true}'].join('\n');
    const { code, messages, stderr } = await talk(['--program', module], ({ type }) =>
      type === 'start' ? script : undefined,
    );
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(messages.filter(({ type }) => type === 'choose').length, 3000);
    assert.equal(messages.at(-1)!.type, 'end');
  });

  test('that does not return is given up on, whoever listens', async () => {
    const module = moduleWith('endless', 'write(cpu, world); for (;;);');
    const { code, stderr } = await impatiently((watchdog) =>
      talk(['--program', module, ...watchdog], ({ type }) =>
        type === 'choose' ? '{"task":0}' : undefined,
      ),
    );
    assert.equal(code, 1);
    assert.match(stderr, /task 0 \(one\) has made no operation .* and does not return\n$/);
  });
});

describe('refused in one line:', () => {
  for (const [line, message] of [
    ['{', /line 1: no JSON/],
    ['7', /line 1: not an object/],
    ['{}', /line 1: neither/],
    ['{"task":9}', /task 9 cannot go/],
    ['{"task":-1}', /line 1: neither/],
    ['{"again":true}', /the schedule is not done/],
  ] as const) {
    test(line, async () => {
      let isSaid = false;
      const { code, stderr } = await talk(['lt-5'], ({ type }) => {
        if (type !== 'choose' || isSaid) return undefined;
        isSaid = true;
        return line;
      });
      assert.equal(code, 2, stderr);
      assert.match(stderr, /^faultline: --controller stdio: [^\n]+\n$/);
      assert.match(stderr, message);
    });
  }
});
