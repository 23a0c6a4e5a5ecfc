import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import type { Explanation } from '../../src/explore/explain/explanation.js';
import type { PerfettoTrace, TraceEvent } from '../../src/explore/explain/perfetto.js';

interface Case {
  /** Switches of the schedule that was found. */
  readonly found: number;
  readonly told: Explanation;
  readonly text: string;
  /** The diagram with every step. */
  readonly all: string;
  readonly again: readonly { readonly signature: string; readonly isSameRun: boolean }[];
  readonly trace: PerfettoTrace;
}

const SCRIPT = fileURLToPath(new URL('../programs/explain-case.js', import.meta.url));
const cases = new Map<string, Case>();

/** What explain-case.js prints about a toy. */
function explained(name: string, ...options: string[]): Case {
  const key = [name, ...options].join(' ');
  const known = cases.get(key);
  if (known !== undefined) return known;
  const output = execFileSync(
    process.execPath,
    ['--conditions=faultline-turnstile', SCRIPT, name, ...options],
    { encoding: 'utf8', maxBuffer: 1 << 26 },
  );
  const made = JSON.parse(output) as Case;
  cases.set(key, made);
  return made;
}

const TOYS = ['lostUpdate', 'busyUpdate', 'relay', 'crossedLocks', 'hastyFault'];

describe('a failing schedule, made small', () => {
  for (const name of TOYS) {
    test(`of ${name} fails in the same way, and is the same run, 100 times of 100`, () => {
      const { told, again } = explained(name);
      assert.equal(again.length, 100);
      for (const run of again) {
        assert.deepEqual(run, { signature: told.failure.signature, isSameRun: true });
      }
    });
  }

  test('has no more preemptions than the mistake needs', () => {
    assert.equal(explained('lostUpdate').told.preemptions, 1);
    assert.equal(explained('crossedLocks').told.preemptions, 1);
    assert.ok(explained('hastyFault').told.preemptions <= 3);
    assert.equal(explained('relay').told.preemptions, 4);
  });

  test('of LT-5 with M-4 has at most three, and names the sequence', () => {
    const { told, again } = explained('lt-5+M-4');
    assert.ok(told.preemptions <= 3, told.schedule);
    assert.match(told.schedule, /^lt-5\+M-4@/);
    assert.match(told.failure.message, /INV-20/);
    assert.match(
      told.sentence ?? '',
      /CPU0 writes mmu_interval_notifier\.invalidateSeq of world\.interval before CPU1 reads it/,
    );
    assert.ok(again.every(({ isSameRun }) => isSameRun));
  });

  test('has no more operations than the mistake needs', () => {
    const { tasks, schedule } = explained('busyUpdate').told;
    assert.deepEqual(
      tasks.map(({ operations }) => operations),
      [['add'], ['add'], []],
    );
    assert.match(schedule, /^busy-update:ops=1\/1\/-@/);
  });

  test('is made small where it stands if a search would take too many runs', () => {
    const { told, found } = explained('hastyFault', '--runs=5');
    assert.ok(found > 5, `${found} switches were found`);
    assert.equal(told.preemptions, 1);
    assert.match(told.failure.message, /^INV-20/);
  });
});

describe('the critical pairs', () => {
  test('of a lost update are a read and the write that it misses', () => {
    const { sentence, criticalPairs } = explained('lostUpdate').told;
    assert.match(
      sentence ?? '',
      /^fails iff CPU([01]) reads tally_world\.counter of world before CPU(?!\1)[01] writes it$/,
    );
    assert.equal(criticalPairs.length, 1);
  });

  test('of a fault that does not wait name the sequence, and the page table entry that it read too early', () => {
    const { sentence } = explained('hastyFault').told;
    assert.equal(
      sentence,
      'fails iff CPU0 writes mmu_interval_notifier.invalidateSeq of world.interval before CPU1 reads it' +
        ' and CPU1 reads hasty_world.cpuPte of world before CPU0 writes it',
    );
  });

  test('of a deadlock are locks that are taken before somebody who waits for them', () => {
    const sentences = explained('crossedLocks').told.criticalPairs.map((pair) => pair.sentence);
    assert.deepEqual(sentences.sort(), [
      'CPU0 takes one->lock before CPU1 does',
      'CPU1 takes other->lock before CPU0 does',
    ]);
  });
});

describe('the steps', () => {
  test('have the place in the source that made them, and not that of the door', () => {
    const { steps } = explained('hastyFault').told;
    const setSeq = steps.find(({ site }) => site?.function === 'mmuIntervalSetSeq');
    assert.equal(setSeq?.site?.file, 'src/notifier/mmu-interval-notifier.ts');
    assert.equal(setSeq.action, 'write');
    assert.deepEqual(
      setSeq.callers.map((site) => site.function),
      [
        'invalidate',
        'mnItreeInvalidate',
        'invalidateRangeStart',
        'startBlocking',
        'mmuNotifierInvalidateRangeStart',
        'invalidate',
      ],
    );
    for (const { site } of steps) {
      assert.ok(site !== undefined);
      assert.doesNotMatch(site.file, /src\/(?:memory|sync\/spinlock|machine\/arch-spinlock)|\.js$/);
    }
  });

  test('have the line of the source, also where tasks were set aside in between', async () => {
    const { steps } = explained('hastyFault').told;
    const { readFileSync } = await import('node:fs');
    const lines = new Map<string, string[]>();
    const verbs: Readonly<Record<string, RegExp>> = {
      lock: /[lL]ock\(/,
      unlock: /[uU]nlock\(/,
      read: /[rR]ead|[lL]ock|load|list|Begin|Retry|Iter|Start|interval/,
      write: /[wW]rite/,
    };
    const wrong = steps.filter(({ site, action }) => {
      if (!site?.file.startsWith('src/') && !site?.file.startsWith('test/')) return true;
      const path = new URL(`../../../${site.file}`, import.meta.url);
      if (!lines.has(site.file)) lines.set(site.file, readFileSync(path, 'utf8').split('\n'));
      const line = lines.get(site.file)![site.line - 1] ?? '';
      return verbs[action]?.test(line) === false;
    });
    assert.deepEqual(
      wrong.map(({ site, action, name }) => [action, name, site]),
      [],
    );
  });

  test('have what was found and what was left, with the names of what it points to', () => {
    const { steps } = explained('hastyFault').told;
    const pte = steps.filter(({ name }) => name === 'hasty_world.cpuPte of world');
    assert.deepEqual(
      pte.map(({ action, before, after }) => [action, before, after]),
      [
        ['read', '100', '100'],
        ['write', '100', '200'],
      ],
    );
    assert.ok(steps.some(({ before }) => before === '&world.mm'));
  });

  test('say which locks are held', () => {
    const { steps } = explained('hastyFault').told;
    const setSeq = steps.find(({ site }) => site?.function === 'mmuIntervalSetSeq');
    assert.deepEqual(setSeq?.held, ['driver->lock']);
    assert.deepEqual(steps.at(-1)?.held, []);
  });
});

describe('the diagram', () => {
  test('has a column for each CPU, the places, and why each was set aside', () => {
    const { diagram } = explained('crossedLocks').told;
    const places = [...diagram.matchAll(/explore-toys\.ts:\d+/g)];
    assert.equal(places.length, 2);
    assert.equal(
      diagram.replaceAll(/explore-toys\.ts:\d+/g, 'explore-toys.ts:LINE'),
      [
        'step   CPU0 forward                         CPU1 backward                        where',
        '                                            takeBoth',
        '   0 *                                        lock other->lock                   explore-toys.ts:LINE',
        '                                            (preempted)',
        '       takeBoth',
        '   1 *   lock one->lock                                                          explore-toys.ts:LINE',
        '       (waits for other->lock, held by',
        '         CPU1; holds one->lock)',
        '                                            (waits for one->lock, held by CPU0;',
        '                                              holds other->lock)',
      ].join('\n'),
    );
  });

  test('stays within its width', () => {
    for (const name of TOYS) {
      for (const line of explained(name).told.diagram.split('\n')) {
        assert.ok(line.length <= 100, `${name}: ${line}`);
      }
      for (const line of explained(name).all.split('\n')) {
        assert.ok(line.length <= 140, `${name}: ${line}`);
      }
    }
  });

  test('leaves out what decides nothing, unless all is asked for', () => {
    const { told, all } = explained('hastyFault');
    const numbered = (text: string): number => [...text.matchAll(/^ *\d+ /gm)].length;
    assert.equal(numbered(all), told.steps.length);
    assert.ok(numbered(told.diagram) < told.steps.length);
    for (const { first, second } of told.criticalPairs) {
      assert.match(told.diagram, new RegExp(`^ *${first} \\*`, 'm'));
      assert.match(told.diagram, new RegExp(`^ *${second} \\*`, 'm'));
    }
    assert.match(told.diagram, /\(preempted\)/);
    assert.match(all, /read interval\.invalidateSeq: 3/);
  });
});

describe('the diagram of a run of hundreds of steps', () => {
  const long = (): Explanation => explained('dax+busted-dax-kill', '--runs=50').told;
  const numbered = (text: string): number => [...text.matchAll(/^ *\d+ /gm)].length;

  test('is short, has what decides, and counts the rest where that is', () => {
    const { diagram, steps, tasks, criticalPairs } = long();
    const lines = diagram.split('\n');
    assert.ok(steps.length > 200, `${steps.length} steps`);
    assert.ok(lines.length <= 120, `${lines.length} lines`);
    assert.ok(criticalPairs.some(({ first }) => new RegExp(`^ *${first} \\*`, 'm').test(diagram)));
    assert.match(diagram, /… \d+ steps in unbindDax/);
    const counts = [...diagram.matchAll(/… (\d+) steps?/g)].map(([, count]) => Number(count));
    const ofShown = steps.filter(({ task }) => lines[0]!.includes(tasks[task]!.name));
    const told = numbered(diagram) + counts.reduce((sum, count) => sum + count, 0);
    assert.equal(told, ofShown.length, 'nothing is forgotten');
  });

  test('has no column for who waits for work, and names no sleep as a cause', () => {
    const { diagram, sentence } = long();
    assert.match(sentence ?? '', /reads dev_dax\.alive of world\.dax before CPU\d writes it/);
    assert.doesNotMatch(sentence ?? '', /sleep|wake/);
    assert.doesNotMatch(diagram.split('\n')[0]!, /kworker/);
  });
});

describe('the whole explanation', () => {
  test('says what failed, what decides, and how to run it again', () => {
    const { told, text } = explained('hastyFault');
    assert.ok(text.startsWith(`hasty-fault: invariant: ${told.failure.message}\n`));
    assert.ok(text.includes(told.diagram));
    assert.ok(text.includes('fails iff CPU0 writes mmu_interval_notifier.invalidateSeq'));
    assert.ok(text.includes(`faultline replay '${told.schedule}'`));
  });
});

describe('the Perfetto trace', () => {
  const eventsOf = (name: string): readonly TraceEvent[] => explained(name).trace.traceEvents;

  test('names a thread for each CPU', () => {
    const names = eventsOf('hastyFault').flatMap(({ name, args }) =>
      name === 'thread_name' ? [args?.['name']] : [],
    );
    assert.deepEqual(names.slice(0, 2).sort(), ['CPU0 invalidate', 'CPU1 fault']);
  });

  test('has slices for operations, locks and waits, and they nest', () => {
    for (const name of TOYS) {
      const slices = eventsOf(name).filter(({ ph }) => ph === 'X');
      assert.ok(slices.some(({ cat }) => cat === 'operation'));
      for (const one of slices) {
        assert.ok(Number.isInteger(one.ts) && one.dur! > 0);
        for (const other of slices) {
          if (one.tid !== other.tid) continue;
          const [start, end] = [one.ts!, one.ts! + one.dur!];
          const [otherStart, otherEnd] = [other.ts!, other.ts! + other.dur!];
          const crosses = start < otherStart && otherStart < end && end < otherEnd;
          assert.ok(!crosses, `${name}: ${one.name} crosses ${other.name}`);
        }
      }
    }
    const names = eventsOf('hastyFault').map((event) => event.name);
    assert.ok(names.includes('holds driver->lock'));
    assert.ok(names.includes('waits for driver->lock, held by CPU0'));
  });

  test('has an instant or a slice for each step, at its number in microseconds', () => {
    const { told } = explained('hastyFault');
    const times = eventsOf('hastyFault')
      .filter(({ cat }) => cat === 'step')
      .map(({ ts }) => ts);
    assert.deepEqual(
      times.sort((one, other) => one! - other!),
      told.steps.map(({ step }) => step),
    );
  });

  test('has arrows from writes to the reads that saw them, each with both ends', () => {
    const events = eventsOf('hastyFault');
    const starts = events.filter(({ ph }) => ph === 's');
    const ends = events.filter(({ ph }) => ph === 'f');
    assert.deepEqual(starts.map(({ id }) => id).sort(), ends.map(({ id }) => id).sort());
    for (const start of starts) {
      const end = ends.find(({ id }) => id === start.id)!;
      assert.ok(start.ts! < end.ts!);
      assert.notEqual(start.tid, end.tid);
    }
    assert.ok(starts.some(({ name }) => name === 'interval.invalidateSeq'));
  });
});
