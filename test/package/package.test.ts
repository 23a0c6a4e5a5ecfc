/**
 * The package as npm would deliver it, used in a project of its own. Nothing is fetched: the tarball is
 * unpacked where an installation would put it, and its dependencies are links to the ones here.
 *
 * @module
 */
import assert from 'node:assert/strict';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';

import { fileIn, ONE_POINT, ROOT, scratchFolder, start } from '../support/cli.js';

/** The tarball is unpacked at once: how small it is is no matter, and that takes most of the time. */
const QUICK_GZIP = new URL('../support/quick-gzip.js', import.meta.url).href;

const project = scratchFolder();
const installed = join(project, 'node_modules/faultline');

interface PackageJson {
  readonly bin: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly exports: unknown;
}
const packageJson = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as PackageJson;

/** Runs a program that must end well; what it prints. */
async function run(command: string, args: readonly string[], cwd = project): Promise<string> {
  const { code, stdout, stderr } = await start(command, args, { cwd }).done;
  assert.equal(code, 0, `${stdout}${stderr}`);
  return stdout;
}

let files: readonly string[] = [];

before(async () => {
  const npm = start('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', project], {
    cwd: ROOT,
    env: { NODE_OPTIONS: `--import ${QUICK_GZIP}` },
  });
  const { code, stdout: packed, stderr } = await npm.done;
  assert.equal(code, 0, stderr);
  const [report] = JSON.parse(packed) as { filename: string; files: { path: string }[] }[];
  files = report!.files.map(({ path }) => path);
  await run('tar', ['-xzf', report!.filename]);
  mkdirSync(join(project, 'node_modules/.bin'), { recursive: true });
  cpSync(join(project, 'package'), installed, { recursive: true });
  mkdirSync(join(installed, 'node_modules'));
  for (const name of Object.keys(packageJson.dependencies)) {
    symlinkSync(join(ROOT, 'node_modules', name), join(installed, 'node_modules', name));
  }
  symlinkSync(join(ROOT, 'node_modules/@types'), join(project, 'node_modules/@types'));
  fileIn(project, 'package.json', '{ "name": "a-user", "type": "module" }');
});

/** Every file that package.json leads to. */
function targetsOf(exports: unknown): string[] {
  if (typeof exports === 'string') return [exports.replace(/^\.\//, '')];
  return Object.values(exports as Record<string, unknown>).flatMap(targetsOf);
}

describe('the tarball', () => {
  test('has every file that package.json leads to', () => {
    const targets = [...targetsOf(packageJson.exports), ...Object.values(packageJson.bin)];
    assert.ok(targets.length >= 8);
    for (const target of targets) assert.ok(files.includes(target), target);
  });

  test('has no tests or benchmarks in it', () => {
    const ours =
      /^(?:dist\/src\/|dist\/[\w.]+\.js|src\/|examples\/|docs\/(?:fidelity|invariants)|README|ARCHITECTURE|CONTRIBUTING|LICENSE|package\.json)/;
    assert.deepEqual(
      files.filter((file) => !ours.test(file) || file.endsWith('.test.ts')),
      [],
    );
  });

  test('has what its texts link to, and the sources that stack traces name', () => {
    const links = ['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md'].flatMap((name) =>
      [...readFileSync(join(ROOT, name), 'utf8').matchAll(/\]\(([^):#]+)\)/g)].map(([, to]) => to!),
    );
    assert.ok(links.length >= 4);
    for (const link of links) {
      assert.ok(
        files.some((file) => file === link || file.startsWith(`${link}/`)),
        link,
      );
    }
    assert.ok(files.includes('src/sync/rwsem.ts'));
    assert.ok(files.includes('examples/own-driver/driver.mjs'));
  });
});

describe('the command', () => {
  test('runs from an installation', async () => {
    const main = join(installed, packageJson.bin['faultline']!);
    const text = await run(process.execPath, [main, 'bench', ...ONE_POINT, '--json', '-']);
    const result = JSON.parse(text) as { environment: { commit: unknown }; points: unknown[] };
    assert.equal(result.environment.commit, null, 'an installation is no checkout');
    assert.equal(result.points.length, 1);
  });

  // npx installs the package of its folder once, which builds it if it is not built: not here, where the
  // tests run from dist.
  test('runs by npx in a clone, which is built once', async () => {
    const clone = join(project, 'clone');
    const left = ['node_modules', '.git'].map((name) => join(ROOT, name));
    cpSync(ROOT, clone, { recursive: true, filter: (source) => !left.includes(source) });
    symlinkSync(join(ROOT, 'node_modules'), join(clone, 'node_modules'));
    const mark = join(clone, 'dist', 'mark');
    writeFileSync(mark, 'gone after a build');
    const npx = start('npx', ['--no-install', 'faultline', '--version'], {
      cwd: clone,
      env: {
        npm_config_cache: join(project, 'npm-cache'),
        npm_config_audit: 'false',
        npm_config_update_notifier: 'false',
      },
    });
    const { code, stdout, stderr } = await npx.done;
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
    assert.ok(existsSync(mark), 'it was built again');
  });
});

describe('the programs of the readme run:', () => {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const programs = [...readme.matchAll(/^```js\n\/\/ (\S+\.mjs)\n([^]*?)^```$/gm)];

  before(() => {
    mkdirSync(join(project, 'readme'));
    for (const [, name, text] of programs) fileIn(join(project, 'readme'), name!, text!);
  });

  test('the lock, by four threads', async () => {
    const text = await run(process.execPath, ['readme/main.mjs']);
    assert.deepEqual(
      text.trimEnd().split('\n').sort(),
      [0, 1, 2, 3].map((id) => `thread ${id} reads`),
    );
  });

  test('the driver', async () => {
    const main = join(installed, packageJson.bin['faultline']!);
    const args = ['bench', 'svm', '--duration', '0.1', '--driver', 'readme/my-driver.mjs'];
    await run(process.execPath, [main, ...args]);
  });
});

const PROGRAM = `
import { memory } from 'faultline';
export function whichBuild() {
  return memory.BUILD;
}
`;

const MAIN = `
import { bootMachine, Crew, memory } from 'faultline';
const build = process.argv[2];
const machine = bootMachine({ cpus: 2, ramBytes: 0 });
const module = new URL('./program.mjs', import.meta.url).href;
const members = [0, 1].map((i) => ({ name: 'asked ' + i, module, entry: 'whichBuild', args: i }));
const crew = new Crew(machine, members, { build });
await crew.ready();
crew.start();
const results = await crew.results();
console.log(JSON.stringify([memory.BUILD, ...results.map((result) => [result.value, result.operations > 0])]));
`;

describe('the library', () => {
  before(() => {
    fileIn(project, 'program.mjs', PROGRAM);
    fileIn(project, 'main.mjs', MAIN);
  });

  for (const build of ['parallel', 'checked', 'turnstile']) {
    test(`has workers of the ${build} build if a crew asks for it`, async () => {
      const [own, ...workers] = JSON.parse(
        await run(process.execPath, ['main.mjs', build]),
      ) as unknown[];
      assert.equal(own, 'parallel');
      const counts = build !== 'parallel';
      assert.deepEqual(workers, [
        [build, counts],
        [build, counts],
      ]);
    });
  }

  for (const build of ['checked', 'turnstile']) {
    test(`is the ${build} build itself under that condition`, async () => {
      const condition = `--conditions=faultline-${build}`;
      const [own] = JSON.parse(
        await run(process.execPath, [condition, 'main.mjs', build]),
      ) as unknown[];
      assert.equal(own, build);
    });
  }
});

const OWN_TESTS = `
import { test } from 'node:test';
import { explore } from 'faultline/testing';

const module = (name) => new URL('./node_modules/faultline/examples/own-program/' + name, import.meta.url);
test('of a sound lock', () => explore(module('ticket-lock.mjs'), { exhaustive: true }));
test('of a broken lock', () => explore(module('broken-ticket-lock.mjs'), { seconds: 20 }));
test('that a limit ends', () => explore('rwsem', { schedules: 3, exhaustive: true }));
test('that must see what it does not', () => explore('lt-5', { strategy: 'dpor', outcomes: ['a miracle'] }));
`;

describe('a test suite of its own', () => {
  let report = '';

  before(async () => {
    fileIn(project, 'own.test.mjs', OWN_TESTS);
    const args = ['--test-reporter', 'tap', 'own.test.mjs'];
    const { code, stdout } = await start(process.execPath, args, { cwd: project }).done;
    assert.equal(code, 1);
    report = stdout;
  });

  test('passes what is sound', () => {
    assert.match(report, /^ok 1 - of a sound lock$/m);
  });

  test('fails by what is broken, with the reason and the line that replays it', () => {
    assert.match(report, /^not ok 2 - of a broken lock$/m);
    assert.match(report, /broken-ticket-lock fails \(\w+\): /);
    assert.match(report, /replay: faultline replay '\S+'/);
  });

  test('fails if it saw less than it should', () => {
    assert.match(report, /rwsem was not exhausted in \d schedules/);
    assert.match(report, /lt-5 never ended as: a miracle/);
  });
});

const CONSUMER = `
import {
  attachCpu, bootMachine, type Cpu, Crew, type CrewMember, defineSvmDriver, downRead, downWrite,
  FaultlineError, findWorkload, initRwsem, kzalloc, layout, lockClass, MachineFailure, measurePoint,
  memory, type MemoryHandle, mmuIntervalSetSeq, planReplay, type PointConfig, replayStrace, Rwsem,
  type SvmDriver, upRead, upWrite,
} from 'faultline';

const Counter = layout.struct('counter', { sem: Rwsem, count: layout.word });
type Counter = layout.Ptr<'counter'>;
const SEM = lockClass('counter->sem');

export function create(cpu: Cpu): Counter {
  const counter: Counter = kzalloc(cpu, Counter);
  initRwsem(cpu, layout.member(counter, Counter.sem), SEM);
  return counter;
}

export function add(cpu: Cpu, counter: Counter, by: number): number {
  const sem = layout.member(counter, Counter.sem);
  downWrite(cpu, sem);
  memory.write(cpu, counter, Counter.count, memory.read(cpu, counter, Counter.count) + by);
  upWrite(cpu, sem);
  downRead(cpu, sem);
  const count: number = memory.read(cpu, counter, Counter.count);
  upRead(cpu, sem);
  return count;
}

export const driver: SvmDriver = defineSvmDriver({
  opsName: 'typed',
  invalidate(cpu, interval, _range, curSeq) {
    mmuIntervalSetSeq(cpu, interval, curSeq);
    return true;
  },
});

export async function everything(handle: MemoryHandle, config: PointConfig): Promise<string> {
  const machine = bootMachine({ cpus: 1, ramBytes: 2 ** 20 });
  const members: CrewMember[] = [{ name: 'one', module: 'file:///x.mjs', entry: 'run', args: 0 }];
  const crew = new Crew(machine, members, { build: 'checked', watchdog: { stallMs: 1000 } });
  try {
    await crew.results();
  } catch (error) {
    if (error instanceof MachineFailure) return error.kind;
    if (error instanceof FaultlineError) return error.code;
  }
  const options = { durationMs: 100, warmupMs: 0, atomics: 'wasm' } as const;
  const point = await measurePoint(findWorkload('svm'), config, options);
  const report = await replayStrace(planReplay('x.strace'), {
    faultThreads: 1, devices: 1, pattern: 'zipf', speed: 0, seed: 1, atomics: 'js',
  });
  return \`\${attachCpu(handle, 0).id} \${point.fault.latencies.p99Ns} \${report.outcomeDifferenceCount}\`;
}

// @ts-expect-error a number is no pointer
add(bootMachine({ cpus: 1, ramBytes: 0 }).cpu, 12, 1);
`;

test('the types are right for a strict program and for the examples, down to the library’s own', async () => {
  fileIn(project, 'consumer.mts', CONSUMER);
  cpSync(join(ROOT, 'examples'), join(project, 'examples'), { recursive: true });
  const programs = readdirSync(join(project, 'examples'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.mjs'))
    .map((name) => join('examples', name));
  assert.ok(programs.length >= 5);
  const flags =
    '--noEmit --strict --target es2022 --lib es2024 --module nodenext --skipLibCheck false --types node';
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const js = ['--allowJs', '--checkJs', '--maxNodeModuleJsDepth', '0'];
  await run(process.execPath, [tsc, ...flags.split(' '), ...js, 'consumer.mts', ...programs]);
});
