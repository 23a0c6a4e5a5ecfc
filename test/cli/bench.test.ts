/**
 * `faultline bench` used as it is meant to be.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, lstatSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import type { BenchPoint, BenchResult } from '../../src/report/bench-result.js';
import {
  faultline,
  fileIn,
  MEETING,
  ONE_POINT,
  resultOf,
  ROOT,
  scratchFolder,
  sharedFaultline,
  SHORT,
  start,
  startFaultline,
} from '../support/cli.js';

const folder = scratchFolder();

/** The only point of a result. */
function onlyPoint(result: BenchResult): BenchPoint {
  assert.equal(result.points.length, 1);
  return result.points[0]!;
}

async function pointOf(...args: readonly string[]): Promise<BenchPoint> {
  return onlyPoint(await resultOf(args));
}

function assertLatencies(latencies: BenchPoint['fault']): void {
  const { samples, p50Ns, p90Ns, p99Ns, p999Ns, maxNs } = latencies;
  assert.ok(samples > 0);
  const ascending = [p50Ns, p90Ns, p99Ns, p999Ns];
  assert.deepEqual(
    ascending.toSorted((a, b) => a - b),
    ascending,
  );
  assert.ok(p50Ns > 0);
  assert.ok(maxNs >= p999Ns, `${maxNs} is the longest, ${p999Ns} among them`);
}

function assertPoint(point: BenchPoint): void {
  assert.ok(point.faults > 0 && point.faultsPerSecond > 0);
  assert.ok(point.invalidations > 0 && point.invalidationsPerSecond > 0);
  assert.equal(point.retryShare, point.retries / (point.faults + point.retries));
  assert.equal(point.staleAccesses, 0);
  assert.ok(point.seconds > 0 && point.rounds >= 3);
  assert.ok(point.marginOfErrorPercent >= 0);
  assert.equal(point.interrupted, false);
  assertLatencies(point.fault);
  assertLatencies(point.invalidate);
}

describe('without options of what to measure', () => {
  test('it measures ranges of 1, 16 and 256 pages, apart and in each other’s way, and shows them', async () => {
    const json = join(folder, 'default.json');
    const { code, stdout, stderr } = await faultline(['bench', ...SHORT, '--json', json]);
    assert.deepEqual([code, stderr], [0, '']);
    const { points } = JSON.parse(readFileSync(json, 'utf8')) as BenchResult;
    assert.deepEqual(
      points.map(({ workload, parameters: { overlap, rangePages } }) => [
        workload,
        overlap,
        rangePages,
      ]),
      [0, 1].flatMap((overlap) =>
        [1, 16, 256].map((pages) => ['fault-invalidate', overlap, pages]),
      ),
    );
    points.forEach(assertPoint);
    for (const { parameters } of points) {
      const { faultThreads, invalidators, devices, arenaPages, seed } = parameters;
      assert.deepEqual([faultThreads, invalidators, devices, arenaPages, seed], [2, 1, 1, 4096, 1]);
    }
    assertReport(stdout);
  });
});

/** The default benchmark as a pipe gets it: no colours, no progress bar. */
function assertReport(text: string): void {
  assert.doesNotMatch(text, /\x1b/);
  assert.match(text, /^faultline \d+\.\d+\.\d+ .* cores · .* · Node .* · wasm atomics$/m);
  assert.match(text, /^seed 1; 6 points of 0\.2 s after 0 s of warm-up$/m);
  assert.match(text, /^fault-invalidate: 2 fault threads, 1 invalidator, 1 device, an arena of/m);
  const rows = text.split('\n').filter((line) => /^│ +\d/.test(line));
  assert.equal(rows.length, 6);
  for (const name of ['faults/s', 'invalidations/s']) {
    for (const overlap of [0, 1]) {
      assert.ok(text.includes(`fault-invalidate: ${name} against pages, overlap ${overlap}\n`));
    }
  }
}

describe('a result', () => {
  test('on stdout is JSON and nothing else; what people read goes to stderr', async () => {
    const { code, stdout, stderr } = await sharedFaultline(['bench', ...ONE_POINT, '--json', '-']);
    assert.equal(code, 0);
    const result = JSON.parse(stdout) as BenchResult;
    assert.equal(result.schema, 'faultline.bench/1');
    assert.equal(result.interrupted, false);
    assertPoint(onlyPoint(result));
    assert.match(stderr, /│ faults\/s │/);
  });

  test('says where it was measured, and with what options', async () => {
    const { environment, config } = await resultOf(['bench', ...ONE_POINT, '--seed', '77']);
    assert.equal(environment.node, process.versions.node);
    assert.equal(environment.v8, process.versions.v8);
    assert.equal(environment.atomics, 'wasm');
    assert.ok(environment.cores > 0 && environment.memoryBytes > 0 && environment.cpu !== '');
    assert.ok(Math.abs(Date.now() - Date.parse(environment.date)) < 3_600_000);
    assert.deepEqual(config, {
      workloads: ['fault-invalidate'],
      rangePages: 1,
      overlap: 1,
      sweep: [],
      duration: 0.2,
      warmup: 0,
      sampleEvery: 64,
      atomics: 'wasm',
      seed: 77,
      watchdog: 20,
      pattern: 'random',
      speed: 1,
      json: '-',
    });
  });

  test('in a file takes the place of what was there, whole, and leaves nothing beside it', async () => {
    const home = scratchFolder();
    fileIn(home, 'result.json', 'what was there before\n'.repeat(1000));
    const args = ['bench', ...ONE_POINT, '--json', 'result.json'];
    const { code, stdout, stderr } = await sharedFaultline(args, { cwd: home });
    assert.equal(code, 0);
    assert.equal(stderr, '');
    assert.match(stdout, /│ faults\/s │/);
    const result = JSON.parse(readFileSync(join(home, 'result.json'), 'utf8')) as BenchResult;
    assertPoint(onlyPoint(result));
    assert.deepEqual(readdirSync(home), ['result.json']);
  });

  test('goes to the file that a link leads to, and the link stays', async () => {
    const home = scratchFolder();
    const target = fileIn(home, 'real.json', '');
    symlinkSync(target, join(home, 'link.json'));
    const args = ['bench', ...ONE_POINT, '--json', 'link.json'];
    assert.equal((await sharedFaultline(args, { cwd: home })).code, 0);
    assert.ok(lstatSync(join(home, 'link.json')).isSymbolicLink());
    JSON.parse(readFileSync(target, 'utf8'));
  });

  test('goes to where a link leads that leads to no file yet', async () => {
    const home = scratchFolder();
    symlinkSync('new.json', join(home, 'link.json'));
    const args = ['bench', ...ONE_POINT, '--json', 'link.json'];
    assert.equal((await sharedFaultline(args, { cwd: home })).code, 0);
    assert.ok(lstatSync(join(home, 'link.json')).isSymbolicLink());
    JSON.parse(readFileSync(join(home, 'new.json'), 'utf8'));
  });

  test('leaves to a file who may read and write it', async () => {
    const home = scratchFolder();
    const file = fileIn(home, 'private.json', '');
    for (const mode of [0o600, 0o666]) {
      chmodSync(file, mode);
      assert.equal((await sharedFaultline(['bench', ...ONE_POINT, '--json', file])).code, 0);
      assert.equal(lstatSync(file).mode & 0o7777, mode);
    }
  });

  test('goes into a pipe, which stays a pipe', async () => {
    const home = scratchFolder();
    const pipe = join(home, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const reader = start('cat', [pipe]);
    const { code } = await sharedFaultline(['bench', ...ONE_POINT, '--json', pipe]);
    assert.equal(code, 0);
    JSON.parse((await reader.done).stdout);
    assert.ok(lstatSync(pipe).isFIFO());
    assert.deepEqual(readdirSync(home), ['pipe']);
  });
});

describe('threads and cores', () => {
  test('are compared: a note says that there are more threads than cores, and so does the JSON', async () => {
    const threads = 2 * availableParallelism();
    const args = ['bench', ...ONE_POINT, '--fault-threads', String(threads), '--invalidators', '0'];
    const { stdout, stderr } = await sharedFaultline([...args, '--json', '-']);
    const { environment } = JSON.parse(stdout) as BenchResult;
    assert.deepEqual([environment.threads, environment.oversubscribed], [threads, true]);
    assert.match(stderr, /^note: \d+ threads on \d+ cores?: latencies and shares include waiting/m);
  });

  test('are no matter if there are enough', async () => {
    const args = ['bench', ...ONE_POINT, '--fault-threads', '0', '--invalidators', '1'];
    const { stdout, stderr } = await sharedFaultline([...args, '--json', '-']);
    assert.equal((JSON.parse(stdout) as BenchResult).environment.oversubscribed, false);
    assert.doesNotMatch(stderr, /^note:/m);
    assert.match(stderr, /^│ +0 │ [^│]* │ [^│]* % │ +- │/m, 'without faults there are no retries');
  });
});

describe('an option', () => {
  test('--fault-threads 0 leaves invalidations alone', async () => {
    const point = await pointOf('bench', ...ONE_POINT, '--fault-threads', '0');
    assert.equal(point.parameters.faultThreads, 0);
    assert.equal(point.faults, 0);
    assert.equal(point.fault.samples, 0);
    assert.ok(point.invalidations > 0);
  });

  test('--invalidators 0 leaves faults alone, and then none is tried again', async () => {
    const point = await pointOf('bench', ...ONE_POINT, '--invalidators', '0');
    assert.equal(point.parameters.invalidators, 0);
    assert.equal(point.invalidations, 0);
    assert.equal(point.retries, 0);
    assert.ok(point.faults > 0);
  });

  test('--devices, --fault-threads, --invalidators, --arena-pages and --range-pages shape the machine', async () => {
    const { parameters, faults } = await pointOf(
      ...['bench', ...SHORT, '--overlap', '0.5', '--devices', '3', '--fault-threads', '5'],
      ...['--invalidators', '2', '--arena-pages', '512', '--range-pages', '7'],
    );
    const { faultThreads, invalidators, devices, arenaPages, rangePages, overlap } = parameters;
    assert.deepEqual(
      { faultThreads, invalidators, devices, arenaPages, rangePages, overlap },
      {
        faultThreads: 5,
        invalidators: 2,
        devices: 3,
        arenaPages: 512,
        rangePages: 7,
        overlap: 0.5,
      },
    );
    assert.ok(faults > 0);
  });

  test('--duration and --warmup say how many rounds there are, and only the former are counted', async () => {
    const options = [
      '--range-pages',
      '1',
      '--overlap',
      '1',
      '--duration',
      '0.7',
      '--warmup',
      '0.4',
    ];
    assert.equal((await pointOf('bench', ...options)).rounds, 7);
  });

  test('--sample-every 0 times nothing, and 1 everything', async () => {
    const none = await pointOf('bench', ...ONE_POINT, '--sample-every', '0');
    assert.deepEqual([none.fault.samples, none.invalidate.samples], [0, 0]);
    const all = await pointOf('bench', ...ONE_POINT, '--sample-every', '1');
    assert.deepEqual([all.fault.samples, all.invalidate.samples], [all.faults, all.invalidations]);
  });

  test('--atomics js measures with the Atomics object', async () => {
    const { environment, points } = await resultOf(['bench', ...ONE_POINT, '--atomics', 'js']);
    assert.equal(environment.atomics, 'js');
    assertPoint(points[0]!);
  });

  test('--sweep measures every combination', async () => {
    const sweeps = ['--sweep', 'fault-threads=1,2', '--sweep', 'overlap=0,0.5'];
    const { points } = await resultOf(['bench', ...SHORT, '--range-pages', '4', ...sweeps]);
    assert.deepEqual(
      points.map(({ parameters: { faultThreads, overlap } }) => [overlap, faultThreads]),
      [
        [0, 1],
        [0, 2],
        [0.5, 1],
        [0.5, 2],
      ],
    );
  });
});

describe('the workload svm', () => {
  test('has engines that access memory, and no stale access', async () => {
    const point = await pointOf('bench', 'svm', ...SHORT);
    assertPoint(point);
    assert.equal(point.workload, 'svm');
    assert.ok(point.accessesPerSecond > 0);
  });

  test('with two devices', async () => {
    const point = await pointOf('bench', 'svm', ...SHORT, '--devices', '2', '--fault-threads', '2');
    assertPoint(point);
  });

  test('has a fault thread for each device where nothing else is said', async () => {
    const args = ['bench', 'svm', ...SHORT, '--sweep', 'devices=1,2'];
    const { code, stdout } = await sharedFaultline(args);
    assert.equal(code, 0);
    assert.match(stdout, /│ fault threads │ devices │/);
    assert.match(stdout, /^│ +1 │ +1 │/m);
    assert.match(stdout, /^│ +2 │ +2 │/m);
    assert.match(stdout, /^svm: faults\/s against devices$/m, 'one plot of what was swept');
  });

  test('beside another is a row of its own, and only it has accesses', async () => {
    const { code, stdout } = await sharedFaultline([
      'bench',
      'svm',
      'fault-invalidate',
      ...ONE_POINT,
    ]);
    assert.equal(code, 0);
    assert.match(stdout, /^│ fault-invalidate(?: *│ [^│]+){3}│ +- │/m);
    assert.match(stdout, /^│ svm +│/m);
    assert.match(stdout, /^│ fault-invalidate +│/m);
    assert.match(stdout, /│ accesses\/s │/);
  });
});

describe('help', () => {
  for (const args of [['--help'], ['help'], ['bench', '--help'], ['help', 'bench']]) {
    test(`${args.join(' ')} is printed, has examples, and is no error`, async () => {
      const { code, stdout, stderr } = await sharedFaultline(args);
      assert.deepEqual([code, stderr], [0, '']);
      assert.match(stdout, /^Usage: faultline/);
      assert.match(stdout, /Examples:\n {2}faultline bench/);
    });
  }

  test('names every option of bench once, and a default for those that have one', async () => {
    const { stdout } = await sharedFaultline(['bench', '--help']);
    const options = [...stdout.matchAll(/^ {2}(?:-h, )?(--[a-z-]+)/gm)].map(([, name]) => name);
    assert.equal(new Set(options).size, options.length);
    assert.equal(options.length, 20);
    assert.match(stdout, /--duration <s> +[^-]*\(default: 2\)/);
  });

  test('comes to stderr as an error if there is no command', async () => {
    const { code, stdout, stderr } = await faultline([]);
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(stderr, /^Usage: faultline/);
  });

  test('--version is that of the package', async () => {
    const { code, stdout } = await faultline(['--version']);
    const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
    assert.deepEqual([code, stdout], [0, `${(JSON.parse(text) as { version: string }).version}\n`]);
  });
});

describe('a reader who has seen enough', () => {
  test('of stdout gets no complaint, and the file is written all the same', async () => {
    const json = join(folder, 'unread.json');
    const running = startFaultline(['bench', ...ONE_POINT, '--json', json]);
    running.child.stdout!.once('data', () => running.child.stdout!.destroy());
    const { code, stderr } = await running.done;
    assert.deepEqual([code, stderr], [0, '']);
    assertPoint(onlyPoint(JSON.parse(readFileSync(json, 'utf8')) as BenchResult));
  });

  test('of stdout still learns of a violation by the exit code', async () => {
    const driver = join(ROOT, 'examples/own-driver/forgetful-driver.mjs');
    const running = startFaultline(['bench', 'svm', ...MEETING, '--driver', driver]);
    running.child.stdout!.once('data', () => running.child.stdout!.destroy());
    assert.equal((await running.done).code, 1);
  });

  test('of stderr still gets the result', async () => {
    const running = startFaultline(['bench', ...ONE_POINT, '--json', '-']);
    running.child.stderr!.once('data', () => running.child.stderr!.destroy());
    const { code, stdout } = await running.done;
    assert.equal(code, 0);
    JSON.parse(stdout);
  });
});

describe('a module with a driver of the user’s', () => {
  test('is what runs, and is named in the header', async () => {
    const driver = fileIn(
      folder,
      'counting.mjs',
      `import { svmDriver, defineOps } from ${JSON.stringify(import.meta.resolve('faultline'))};
      import { appendFileSync } from 'node:fs';
      let said = false;
      export const driver = defineOps({
        ...svmDriver,
        opsName: 'counting',
        invalidate(cpu, interval, range, seq) {
          if (!said) appendFileSync(${JSON.stringify(join(folder, 'log'))}, 'invalidate ' + cpu.id + '\\n');
          said = true;
          return svmDriver.invalidate(cpu, interval, range, seq);
        },
      });`,
    );
    const { code, stdout } = await sharedFaultline(['bench', ...ONE_POINT, '--driver', driver]);
    assert.equal(code, 0);
    assert.match(stdout, /^seed 1; 1 point of .*, driver .*counting\.mjs$/m);
    assert.match(
      readFileSync(join(folder, 'log'), 'utf8'),
      /^invalidate 2$/m,
      'on the invalidator',
    );
  });
});
