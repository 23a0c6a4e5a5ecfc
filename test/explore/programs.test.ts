/**
 * Every program as it ships: nothing fails, and everything that may happen does.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';

import { SPACE_PROGRAMS } from '../../src/explore/programs/address-space.js';
import { LIFETIME_PROGRAMS } from '../../src/explore/programs/list-lifetime.js';
import { DESIGN_PROGRAMS } from '../../src/explore/programs/mirror-designs.js';
import { OOM_PROGRAMS } from '../../src/explore/programs/oom.js';
import { PROGRAMS } from '../../src/explore/programs/registry.js';
import { lt24 } from '../../src/explore/programs/secondary-tlb.js';
import {
  type Answer,
  explorePrograms,
  type Request,
  soundPrograms,
} from '../support/exploration.js';

/** In address-space.test.ts and lifetimes.test.ts. */
const ELSEWHERE = new Set([
  ...SPACE_PROGRAMS,
  ...LIFETIME_PROGRAMS,
  ...DESIGN_PROGRAMS,
  ...OOM_PROGRAMS,
  lt24,
]);

describe('every program over locks and notifiers', () => {
  soundPrograms(PROGRAMS.filter((program) => !ELSEWHERE.has(program)));
});

test('a schedule of a broken program is the same when it is run again, too', async () => {
  const broken = PROGRAMS.filter(({ isBroken }) => isBroken === true);
  const answers = await explorePrograms(
    ...broken.map(({ name }): Request => ({ program: name, random: 15, pct: 15, repeatEvery: 1 })),
  );
  assert.deepEqual(
    answers.map(({ repeated, different }, i) => [broken[i]!.name, repeated, different]),
    broken.map(({ name }) => [name, 30, 0]),
  );
});

describe('programs that are wrong themselves fail', () => {
  const failures: readonly [program: string, failure: RegExp][] = [
    ['abba', /^A then B waits for mutex/],
    [
      'lt-1-locked',
      /^exit waits for work item fault worker, run by cpu 1; holds .*hmm->mirrors_sem/,
    ],
    ['lt-2-kill', /^INV-20/],
    ['lt-3-no-retry', /^INV-20/],
    ['lt-4-no-lock', /^LT-4|^INV-20/],
    ['lt-6-valid-flag', /^outcome 'stale page'/],
    ['lt-7-kill', /^user \(read/],
    ['lt-7-caller-kills', /^user \(read/],
    ['p2pdma-6.12', /^user \(readOnce, step \d+\) uses .*, which unbind freed/],
    ['p2pdma-kill', /^user \(|^unbind waits|INV-30/],
    [
      'p2pdma-unkilled',
      /driver waits for references to driver's dev_pagemap: 1 left, and nobody has killed it/,
    ],
    ['p2pdma-insert', /unbind waits for references to dev_pagemap: 1 left/],
    ['pmem-kill', /^request \(|INV-30/],
    [
      'lt-8',
      /unbind waits for references to explored driver ref: 16 left, of which 16 came with pages/,
    ],
    ['lt-11-file', /^LT-11: the device maps the memory of an address space that has ended/],
    ['lt-12-job', /^exit \(\w+, step \d+\) uses word \d+, which kworker freed/],
    ['lt-13-unpaired', /^INV-14: a notifier was told a start, and no end/],
    [
      'lt-16',
      /^partial deadlock: driver waits for end of invalidation of an mm, begun by cpu 0 \(has ended\)|^INV-21/,
    ],
    ['lt-22-conclusion', /^outcome 'refused, only readers hold it'/],
    ['lt-25', /^cpu 0: waits for the end of its own read section of explored srcu/],
    ['lt-25-notifier', /^cpu 0: waits for the end of its own read section of mmu_notifier srcu/],
    [
      'srcu-abba',
      /^possible circular locking dependency: explored srcu -> srcu program -> explored/,
    ],
    ['work-locked-flush', /^flush waits for work item explored work, run by cpu 1/],
    ['work-self-flush', /^cpu 1: recursive locking of explored work/],
    ['work-unserved', /^flush waits for work item explored work, which nobody runs/],
  ];

  test('are all of them known here', () => {
    const broken = PROGRAMS.filter(({ isBroken }) => isBroken === true);
    assert.deepEqual(broken.map(({ name }) => name).sort(), failures.map(([name]) => name).sort());
  });

  let answers: Answer[] = [];
  before(async () => {
    const search = 2000;
    answers = await explorePrograms(...failures.map(([program]) => ({ program, search })));
  });
  for (const [i, [program, failure]] of failures.entries()) {
    test(`${program}: ${failure.source}`, () => {
      assert.match(answers[i]!.failure ?? '', failure);
    });
  }
});
