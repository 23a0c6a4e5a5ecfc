/**
 * What `faultline` says to input it cannot use: one line that names what is wrong, and exit code 2.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import {
  faultline,
  fileIn,
  MAIN,
  ONE_POINT,
  refusalOf,
  scratchFolder,
  start,
} from '../support/cli.js';

const folder = scratchFolder();

/** Arguments of `bench`, and what must be said of them. */
const BAD_OPTIONS: readonly (readonly [string, RegExp])[] = [
  ['--no-such-option', /unknown option '--no-such-option'/],
  ['no-such-workload', /no workload 'no-such-workload'; there are fault-invalidate, svm/],
  ['--fault-threads', /'--fault-threads <n>' argument missing/],
  ['--fault-threads two', /--fault-threads.*'two' is invalid. It must be an integer from 0 to 255/],
  ['--fault-threads 1.5', /--fault-threads.*'1\.5'.*integer/],
  ['--fault-threads 200 --invalidators 100', /at most 255 CPUs, and this takes 300/],
  ['--fault-threads 0 --invalidators 0', /there is nothing to do/],
  ['--range-pages -1', /--range-pages.*'-1'.*from 1 to 16384/],
  ['--range-pages 0', /--range-pages.*'0'/],
  ['--range-pages 1e99', /--range-pages.*'1e99'/],
  [
    '--range-pages 64 --arena-pages 65',
    /--range-pages 64 does not fit: .* leaves each of 3 threads 21/,
  ],
  ['--arena-pages 99999999999', /--arena-pages.*from 1 to 262144/],
  ['--overlap 2', /--overlap.*'2'.*a number from 0 to 1/],
  ['--overlap NaN', /--overlap.*'NaN'/],
  ['--duration 0', /--duration.*'0'.*from 0\.1/],
  ['--sample-every -1', /--sample-every.*'-1'/],
  ['--atomics asm', /--atomics.*'asm'.*one of wasm, js/],
  ['--seed 0', /--seed.*'0'.*from 1/],
  ['--seed 99999999999', /--seed.*'99999999999'/],
  ['--watchdog 0', /--watchdog.*'0'/],
  ['--pattern random', /--pattern needs --strace/],
  ['--speed 2', /--speed needs --strace/],
  ['--protocol hmm', /--protocol.*'hmm'.*one of list-tree, sync-at-end, .*two-pass, all/],
  ['--protocol all --driver mine.mjs', /--protocol does not go with --driver/],
  ['--protocol interval --strace log', /--protocol does not go with --strace/],
  ['--sweep pages=1,2', /KEY=A,B,C with KEY one of fault-threads, .*overlap/],
  ['--sweep overlap=0=1', /KEY=A,B,C/],
  ['--sweep overlap=0,1,', /from 0 to 1/],
  ['--sweep overlap=0,0', /names a value twice/],
  ['--sweep overlap=0 --sweep overlap=1', /two sweeps of overlap/],
  ['--overlap 1 --sweep overlap=0,1', /--overlap and --sweep overlap=… contradict/],
  ['svm --devices 2 --fault-threads 1', /a fault thread for each device/],
  ['svm --strace log', /--strace takes no workload beside it/],
  ['--strace log --duration 3', /--duration does not go with --strace/],
  ['--strace log --sweep overlap=1', /--sweep does not go with --strace/],
  ['--strace log --sample-every 1', /--sample-every does not go with --strace/],
];

describe('a bad option', () => {
  for (const [args, message] of BAD_OPTIONS) {
    test(`bench ${args}`, async () => {
      assert.match(await refusalOf(['bench', ...args.split(' ')]), message);
    });
  }

  test('… by a process of its own, which ends by itself', async () => {
    const [[args, message]] = BAD_OPTIONS as readonly [(typeof BAD_OPTIONS)[number]];
    assert.match(await refusalOf(['bench', ...args.split(' ')], { alone: true }), message);
  });

  test('a command that there is not', async () => {
    assert.match(await refusalOf(['torment']), /unknown command 'torment'/);
  });
});

describe('a place for the result that cannot be written is refused before anything is measured', () => {
  const home = scratchFolder();
  // long enough to be killed by the test's patience, if it were measured first
  const args = ['bench', '--duration', '3600', '--json'];

  test('no folder', async () => {
    const message = await refusalOf([...args, 'no/such/folder/x.json'], { cwd: home });
    assert.match(message, /--json no\/such\/folder\/x\.json: cannot be written: no such file/);
  });

  test('a folder', async () => {
    mkdirSync(join(home, 'folder'));
    assert.match(
      await refusalOf([...args, 'folder'], { cwd: home }),
      /--json folder: .* directory/,
    );
  });

  test('in what is no folder', async () => {
    fileIn(home, 'file', '');
    assert.match(await refusalOf([...args, 'file/x.json'], { cwd: home }), /not a directory/);
  });

  test('where nobody may write, not even root', async () => {
    const message = await refusalOf([...args, '/proc/no-such-folder/x.json']);
    assert.match(message, /--json \/proc\/no-such-folder\/x\.json: cannot be written/);
  });

  test('a file that must not be written', async (t) => {
    if (process.getuid?.() === 0) {
      t.skip('root may write everything');
      return;
    }
    chmodSync(fileIn(home, 'locked.json', 'keep me'), 0o444);
    assert.match(await refusalOf([...args, 'locked.json'], { cwd: home }), /permission denied/);
  });

  test('no name', async () => {
    assert.match(await refusalOf([...args, '']), /--json.*must be the name of a file/);
  });

  test('a file that is read', async () => {
    fileIn(home, 'some.strace', '7 1700000000.000000 brk(NULL) = 0x5000\n');
    symlinkSync('some.strace', join(home, 'alias'));
    for (const json of ['some.strace', './some.strace', 'alias']) {
      const message = await refusalOf(['bench', '--strace', 'some.strace', '--json', json], {
        cwd: home,
      });
      assert.match(message, /cannot be written: it is the input of --strace/);
    }
    fileIn(home, 'driver.mjs', 'export const driver = 7;');
    assert.match(
      await refusalOf([...args, 'driver.mjs', '--driver', 'driver.mjs'], { cwd: home }),
      /cannot be written: it is the input of --driver/,
    );
    assert.equal(readFileSync(join(home, 'driver.mjs'), 'utf8'), 'export const driver = 7;');
  });

  test('stdout, if it is a file that must not grow', async () => {
    const limited = `ulimit -f 0; exec "${process.execPath}" "${MAIN}" bench --duration 3600 > full`;
    const { code, stderr } = await start('sh', ['-c', limited], { cwd: home }).done;
    assert.equal(code, 2, stderr);
    assert.match(stderr, /^faultline: stdout cannot be written: file too large\n$/);
  });

  test('and nothing is left beside it', () => {
    const left = readdirSync(home).filter((name) => name.includes('partial'));
    assert.deepEqual(left, []);
  });
});

describe('a log that cannot be read', () => {
  const replay = (file: string): Promise<string> =>
    refusalOf(['bench', '--strace', file], { cwd: folder });

  test('because it is not there', async () => {
    assert.match(await replay('none.strace'), /none\.strace: cannot be read: no such file/);
  });

  test('because it is a folder', async () => {
    mkdirSync(join(folder, 'some'));
    assert.match(await replay('some'), /some: cannot be read: .*directory/);
  });

  test('because it is empty', async () => {
    fileIn(folder, 'empty.strace', '');
    assert.match(await replay('empty.strace'), /empty\.strace:1: expected .*, found an empty file/);
  });

  test('because it is no text', async () => {
    const bytes = Array.from({ length: 4096 }, (_, i) => String.fromCharCode((i * 7) % 256)).join(
      '',
    );
    fileIn(folder, 'binary.strace', bytes);
    assert.match(await replay('binary.strace'), /binary\.strace:1: expected a line of strace/);
  });

  test('because a line is broken, which is named', async () => {
    const log = '7 1700000000.000000 brk(NULL) = 0x5000\n7 1700000000.000001 brk(NULL = 0x5000\n';
    fileIn(folder, 'broken.strace', log);
    assert.match(await replay('broken.strace'), /broken\.strace:2: expected/);
  });

  test('because an argument makes no sense, whose line is named', async () => {
    const log =
      '7 1700000000.000000 brk(NULL) = 0x5000\n7 1700000000.000001 mmap(NULL, many, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x6000\n';
    fileIn(folder, 'argument.strace', log);
    assert.match(await replay('argument.strace'), /argument\.strace:2: expected/);
  });
});

test('a working directory that is gone is refused in one line', async () => {
  const gone = `mkdir gone && cd gone && rmdir ../gone && exec "${process.execPath}" "${MAIN}" bench`;
  const { code, stdout, stderr } = await start('sh', ['-c', gone], { cwd: folder }).done;
  assert.deepEqual([code, stdout], [2, '']);
  assert.match(stderr, /^faultline: the working directory cannot be used: [^\n]+\n$/);
});

describe('a machine', () => {
  test('that the host has no memory for is refused in one line', async () => {
    const limited = `ulimit -v 6000000; exec "${process.execPath}" "${MAIN}" bench --arena-pages 262144`;
    const { code, stderr } = await start('sh', ['-c', limited]).done;
    assert.equal(code, 2, stderr);
    assert.match(stderr, /^faultline: the machine needs \d+ MiB of memory[^\n]*\n$/);
  });

  test('may have as many CPUs as there are', async () => {
    const args = ['bench', ...ONE_POINT, '--fault-threads', '60', '--invalidators', '4'];
    const { code, stderr } = await faultline(args);
    assert.deepEqual([code, stderr], [0, '']);
  });
});
