/**
 * What a reference costs: a per-CPU reference count beside one that all CPUs share, for one worker and for two.
 *
 * @module
 */
import {
  bootDeferred,
  bootMachine,
  type Cpu,
  Crew,
  defineOps,
  kzalloc,
  layout,
  memory,
  PercpuRef,
  percpuRefGet,
  percpuRefInit,
  percpuRefPut,
  Refcount,
  refcountDecAndTest,
  refcountInc,
  refcountSet,
  registerOps,
} from 'faultline';

import { textTable } from '../src/report/table.js';
import { showProgress } from './progress.js';
import { median } from './statistics.js';

/** Short, so that the host seldom runs somebody else in between. */
const PAIRS_PER_LOOK = 2000;
const SECONDS = 1;
const ROUNDS = 5;
const NS_PER_MS = 1e6;
const TARGET_NS = 25;
const TARGET_RATIO = 5;
const LEGEND = `ns      time of one get and one put together, on each worker; median of all looks at ${PAIRS_PER_LOOK} pairs, and of ${ROUNDS} runs of ${SECONDS} s
M/s     million pairs per second, all workers together
target  get and put of a percpu_ref: at most ${TARGET_NS} ns; two workers: at least ${TARGET_RATIO} times the refcount_t's rate`;

const World = layout.struct('bench_refs', {
  percpu: PercpuRef,
  line1: layout.cacheline,
  shared: Refcount,
  line2: layout.cacheline,
  looks0: layout.word, // looks that worker 0 has made
  line3: layout.cacheline,
  looks1: layout.word,
  line4: layout.cacheline,
});
type World = layout.Ptr<'bench_refs'>;

export const benchRef = defineOps({
  opsName: 'bench percpu_ref',
  release() {
    // it is never killed
  },
});

function percpuPairs(cpu: Cpu, world: World): void {
  const ref = layout.member(world, World.percpu);
  for (let i = 0; i < PAIRS_PER_LOOK; i++) {
    percpuRefGet(cpu, ref);
    percpuRefPut(cpu, ref);
  }
}

function sharedPairs(cpu: Cpu, world: World): void {
  const refs = layout.member(world, World.shared);
  for (let i = 0; i < PAIRS_PER_LOOK; i++) {
    refcountInc(cpu, refs);
    refcountDecAndTest(cpu, refs);
  }
}

/**
 * Nanoseconds of a pair: the median of many short looks. Beside another worker, of those in which that one made
 * looks too: on a busy host they do not always run at the same time.
 */
function timeFor(
  cpu: Cpu,
  { world, workers }: Args,
  run: (cpu: Cpu, world: World) => void,
): number {
  const mine = cpu.id === 0 ? World.looks0 : World.looks1;
  const theirs = cpu.id === 0 ? World.looks1 : World.looks0;
  const looks: number[] = [];
  const start = performance.now();
  let now = start;
  while (now - start < SECONDS * 1000) {
    const seen = memory.readOnce(cpu, world, theirs);
    const before = performance.now();
    run(cpu, world);
    now = performance.now();
    memory.fetchAdd(cpu, world, mine, 1);
    if (workers > 1 && memory.readOnce(cpu, world, theirs) === seen) continue;
    looks.push(((now - before) * NS_PER_MS) / PAIRS_PER_LOOK);
  }
  return median(looks);
}

/** What each worker is given. */
interface Args {
  readonly world: World;
  readonly workers: number;
}

/** A crew's member. */
export function measurePercpu(cpu: Cpu, args: Args): number {
  return timeFor(cpu, args, percpuPairs);
}

/** A crew's member. */
export function measureShared(cpu: Cpu, args: Args): number {
  return timeFor(cpu, args, sharedPairs);
}

/** Nanoseconds of a pair on each of some workers that do the same. */
async function runOnce(workers: number, entry: string): Promise<number[]> {
  const machine = bootMachine({ cpus: workers, ramBytes: 1 << 20 });
  const { cpu } = machine;
  bootDeferred(cpu);
  registerOps(cpu, [{ benchRef }]);
  const world = kzalloc(cpu, World);
  percpuRefInit(cpu, layout.member(world, World.percpu), benchRef);
  refcountSet(cpu, layout.member(world, World.shared), 1);
  const members = Array.from({ length: workers }, (_, id) => ({
    name: `worker ${id}`,
    module: import.meta.url,
    entry,
    args: { world, workers },
  }));
  const crew = new Crew(machine, members, { opsModules: [import.meta.url] });
  await crew.ready();
  crew.start();
  return (await crew.results()).map(({ value }) => Number(value));
}

interface Cost {
  readonly ns: number;
  readonly perSecond: number;
}

async function measure(workers: number, entry: string, name: string): Promise<Cost> {
  const times: number[] = [];
  const rates: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    showProgress(`percpu-ref: ${name}, ${workers} workers, run ${round + 1} of ${ROUNDS}`);
    const each = await runOnce(workers, entry);
    times.push(median(each));
    rates.push(each.reduce((sum, ns) => sum + 1000 / ns, 0));
  }
  return { ns: median(times), perSecond: median(rates) };
}

/** A line for each kind of count and number of workers. */
export async function percpuRefTable(): Promise<string> {
  const rows: (readonly (string | number)[])[] = [];
  const costs = new Map<string, Cost>();
  const kinds = [
    ['percpu_ref', measurePercpu.name],
    ['refcount_t', measureShared.name],
  ] as const;
  for (const workers of [1, 2]) {
    for (const [name, entry] of kinds) {
      const cost = await measure(workers, entry, name);
      costs.set(`${name} ${workers}`, cost);
      rows.push([name, workers, `${cost.ns.toFixed(1)} ns`, `${cost.perSecond.toFixed(1)} M/s`]);
    }
  }
  const ns = costs.get('percpu_ref 1')?.ns ?? NaN;
  const ratio =
    (costs.get('percpu_ref 2')?.perSecond ?? NaN) / (costs.get('refcount_t 2')?.perSecond ?? NaN);
  const met = (isMet: boolean): string => (isMet ? 'met' : 'missed');
  const table = textTable({
    head: ['get and put', 'workers', 'each', 'together'],
    colAligns: ['left', 'right', 'right', 'right'],
    rows,
  });
  return [
    table,
    `one worker: ${ns.toFixed(1)} ns (target ${met(ns <= TARGET_NS)}); ` +
      `two workers: ${ratio.toFixed(1)} times the refcount_t's rate (target ${met(ratio >= TARGET_RATIO)})`,
    LEGEND,
  ].join('\n');
}
