/**
 * Target `mm`: its content model sees what it must see and lets pass what may be; runs of it find nothing in the
 * kernel as it is, and planted mistakes in one that has them.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { read } from '#memory';

import { bootDeferred } from '../../src/deferred/boot.js';
import { runPendingWork } from '../../src/deferred/kworker.js';
import * as driverModule from '../../src/drivers/svm/driver.js';
import { svmDriver } from '../../src/drivers/svm/driver.js';
import { bootSvmStats } from '../../src/drivers/svm/stats.js';
import { WorkerPools } from '../../src/host/pool.js';
import { attachCpu, bootMachine } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { NULL } from '../../src/memory/layout.js';
import { storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { useMm } from '../../src/mm/mm-struct.js';
import { mremap } from '../../src/mm/mremap.js';
import type { MmStruct } from '../../src/mm/types.js';
import { MADV_DONTNEED, MREMAP_FIXED, MREMAP_MAYMOVE } from '../../src/mm/uapi.js';
import { exitTask } from '../../src/process/task.js';
import {
  cellVa,
  lookAtCell,
  lookAtChild,
  newTag,
  storeCell,
  type Way,
} from '../../src/torture/mm/content.js';
import { mmTarget } from '../../src/torture/mm/mm.js';
import { spawn } from '../../src/torture/mm/process-operations.js';
import { stageOf } from '../../src/torture/mm/stage.js';
import {
  beginDanger,
  endDanger,
  endWorld,
  makeWorld,
  pageVa,
  PRIVATE_FILE,
  SHARED,
  Space,
  spaceAt,
  STEADY,
  unsettle,
  type Visit,
  visit,
  VOLATILE,
  type World,
} from '../../src/torture/mm/world.js';
import { rolesOf, type TortureOptions, tortureTarget } from '../../src/torture/run.js';
import { PHASE_LIVENESS, type TortureMember } from '../../src/torture/target.js';
import { assertNoLeak, framesAccountedFor } from '../../src/workloads/leak.js';

const PAGE_BYTES = 4096;

const CONFIG: TortureOptions['config'] = {
  cpus: 4,
  devices: 1,
  nwritersStress: -1,
  nreadersStress: -1,
  longHoldMs: 0,
  noise: 5,
  seed: 1,
};

// --- the content model, on this thread ---

/** What the target says when it sees something. */
class Seen extends Error {}

/** A member that has no worker, and always chooses the same. */
function puppet(choice: number): TortureMember {
  return {
    index: 0,
    role: 'cpu',
    config: { ...CONFIG, driver: svmDriver, lock: undefined },
    random: (bound) => choice % bound,
    count: () => undefined,
    now: () => 0,
    waited: () => undefined,
    held: () => undefined,
    fail: (message, invariant) => {
      throw new Seen(`${invariant ?? ''}: ${message}`);
    },
    noise: () => undefined,
    phase: () => PHASE_LIVENESS,
  };
}

class Model {
  readonly cpu: Cpu;
  readonly world: World;
  readonly at: Visit;
  readonly way: Way;
  readonly #frames: number;

  constructor() {
    const { cpu: boot, handle } = bootMachine({ cpus: 2, ramBytes: 16 << 20 });
    bootMm(boot);
    bootDeferred(boot);
    bootSvmStats(boot);
    this.cpu = attachCpu(handle, 0);
    registerOps(this.cpu, [driverModule]);
    this.#frames = framesAccountedFor(this.cpu);
    this.world = makeWorld(this.cpu);
    assert.ok(spawn(this.cpu, this.world, 0));
    const at = visit(this.cpu, this.world, 0);
    assert.ok(at);
    this.at = at;
    this.way = stageOf(this.world, puppet(STEADY.first), at).way;
  }

  get mm(): MmStruct {
    return this.at.mm;
  }

  /** Stores a new tag, as the target does; returns it. */
  store(page: number, cell = 0): number {
    const tag = newTag(this.cpu, this.world, page);
    assert.ok(storeCell(this.cpu, this.way, page, cell, tag));
    return tag;
  }

  look(page: number, cell = 0): boolean {
    return lookAtCell(this.cpu, this.way, page, cell);
  }

  /** Behind the model's back. */
  overwrite(page: number, value: number, cell = 0, mm = this.mm, owner = 0): void {
    assert.equal(storeWord(this.cpu, mm, cellVa(pageVa(page), owner, cell), value), 0);
  }

  /** A child that nobody has changed. */
  fork(): MmStruct {
    const child = dupMm(this.cpu, this.mm);
    assert.notEqual(child, NULL);
    useMm(this.cpu, child);
    return child;
  }

  end(): void {
    const { cpu, world } = this;
    const space = spaceAt(world, 0);
    const task = read(cpu, space, Space.task);
    mmput(cpu, this.mm);
    unsettle(cpu, space);
    exitTask(cpu, task);
    runPendingWork(cpu);
    endWorld(cpu, world);
    assertNoLeak(cpu, this.#frames);
  }
}

function inModel(body: (model: Model) => void): () => void {
  return () => {
    const model = new Model();
    body(model);
    model.end();
  };
}

const seen = (pattern: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Seen, String(error));
  assert.match(error.message, pattern);
  return true;
};

describe('the content model', () => {
  const kept = [STEADY.first, PRIVATE_FILE.first + 1, SHARED.first + 2, VOLATILE.first + 3];

  test('finds what was stored, and what nobody has touched', () => {
    inModel((model) => {
      for (const page of kept) {
        assert.ok(model.look(page), 'untouched');
        model.store(page);
        assert.ok(model.look(page));
        assert.ok(model.look(page, 1), 'the other cell');
      }
    })();
  });

  for (const page of kept) {
    test(`sees a store to page ${page} that is lost`, () => {
      inModel((model) => {
        const before = model.store(page);
        model.store(page);
        model.overwrite(page, before);
        assert.throws(() => model.look(page), seen(/^INV-24: cell 0 of page/));
      })();
    });

    test(`sees that page ${page} reads as nothing although nobody has thrown it away`, () => {
      inModel((model) => {
        model.store(page);
        model.overwrite(page, 0);
        assert.throws(() => model.look(page), seen(/^INV-24: .* is 0 /));
      })();
    });
  }

  test("sees another page's contents, and another CPU's", () => {
    inModel((model) => {
      const tag = model.store(STEADY.first + 1);
      model.store(STEADY.first);
      model.overwrite(STEADY.first, tag);
      assert.throws(() => model.look(STEADY.first), seen(/for page 1/));
      beginDanger(model.cpu, model.at.space, VOLATILE.first, 1);
      model.overwrite(VOLATILE.first, tag);
      assert.throws(() => model.look(VOLATILE.first), seen(/INV-24/), 'not even in danger');
    })();
  });

  test('lets volatile contents go in danger, and only then', () => {
    inModel((model) => {
      const page = VOLATILE.first + 5;
      const { cpu, at, mm } = model;
      model.store(page);
      beginDanger(cpu, at.space, page, 1);
      madvise(cpu, mm, pageVa(page), PAGE_BYTES, MADV_DONTNEED);
      assert.ok(model.look(page), 'in danger');
      endDanger(cpu, at.space, page, 1);
      assert.ok(model.look(page), 'found as it was found before');
      model.store(page);
      madvise(cpu, mm, pageVa(page), PAGE_BYTES, MADV_DONTNEED);
      assert.throws(() => model.look(page), seen(/INV-24/), 'nobody has said so');
    })();
  });

  test('lets memory that the program has freed go after it was read, until it is stored to', () => {
    inModel((model) => {
      const page = VOLATILE.first + 6;
      const { cpu, at } = model;
      model.store(page);
      beginDanger(cpu, at.space, page, 1);
      endDanger(cpu, at.space, page, 1);
      assert.ok(model.look(page), 'not gone yet');
      model.overwrite(page, 0);
      assert.ok(model.look(page), 'reclaimed');
      model.store(page);
      model.overwrite(page, 0);
      assert.throws(() => model.look(page), seen(/INV-24/));
    })();
  });

  test('does not judge what it may not reach', () => {
    inModel((model) => {
      const { cpu, mm } = model;
      const page = STEADY.first + 2;
      model.store(page);
      const away = pageVa(page) + 2 ** 30;
      const flags = MREMAP_MAYMOVE | MREMAP_FIXED;
      assert.equal(mremap(cpu, mm, pageVa(page), PAGE_BYTES, PAGE_BYTES, flags, away), away);
      assert.equal(model.look(page), false);
      mremap(cpu, mm, away, PAGE_BYTES, PAGE_BYTES, flags, pageVa(page));
      assert.ok(model.look(page));
    })();
  });

  test('sees a child that is not its parent', () => {
    inModel((model) => {
      const { cpu, way } = model;
      const tag = newTag(cpu, model.world, STEADY.first);
      for (const cell of [0, 1]) storeCell(cpu, way, STEADY.first, cell, tag);
      const child = model.fork();
      lookAtChild(cpu, way, child, 1, true);
      model.overwrite(STEADY.first, newTag(cpu, model.world, STEADY.first), 0, child);
      assert.throws(
        () => {
          lookAtChild(cpu, way, child, 1, true);
        },
        seen(/^INV-24: cell 0 of page 0/),
      );
      mmput(cpu, child);
    })();
  });

  test('sees a child that was copied while another CPU wrote', () => {
    inModel((model) => {
      const { cpu, way, world } = model;
      const page = STEADY.first + 1; // the page, and the CPU, that a puppet of this number chooses
      const [older, newer] = [newTag(cpu, world, page), newTag(cpu, world, page)];
      const ofOther = 1 << 25;
      const child = model.fork();
      const looks = (isWhole = true): void => {
        lookAtChild(cpu, { ...way, member: puppet(1) }, child, 2, isWhole);
      };
      model.overwrite(page, newer + ofOther, 0, child, 1);
      looks();
      model.overwrite(page, older + ofOther, 1, child, 1);
      looks();
      model.overwrite(page, older + ofOther, 0, child, 1);
      model.overwrite(page, newer + ofOther, 1, child, 1);
      looks(false); // it may have been pinned
      assert.throws(
        () => {
          looks();
        },
        seen(/^INV-24: page 1 of a child was copied while it was written/),
      );
      model.overwrite(page, older, 1, child, 1);
      assert.throws(
        () => {
          looks();
        },
        seen(/^INV-24: page 1 of a child has cpu 0's/),
      );
      mmput(cpu, child);
    })();
  });
});

// --- runs, on workers of the checked build ---

const pools = new WorkerPools(rolesOf(mmTarget, { config: CONFIG } as TortureOptions).length);
after(() => pools.end());

function optionsFor(durationMs: number, seed: number, mutant?: string): TortureOptions {
  return {
    config: { ...CONFIG, seed },
    timing: { durationMs, stutterMs: 0, shuffleMs: 300, onoffMs: 200 },
    stallMs: 20_000,
    commandFor: (target) => target,
    ...(mutant !== undefined && { mutant }),
  };
}

test('finds nothing in a second, with four CPUs and a device', async () => {
  const result = await tortureTarget(mmTarget, optionsFor(1000, 3), pools);
  assert.equal(result.violation, null, result.violation?.what);
});

/** Planted mistakes that it finds in a few seconds, and what each is seen by; mmTarget.busted has all of them. */
const CAUGHT: readonly (readonly [string, RegExp])[] = [
  ['M-reap-waits', /sleeping function called from invalid context/],
  ['M-unstable-unseen', /INV-24/],
];

for (const [mutant, what] of CAUGHT) {
  test(`finds ${mutant}`, async () => {
    const { violation } = await tortureTarget(mmTarget, optionsFor(60_000, 1, mutant), pools);
    assert.ok(violation, 'something was seen');
    assert.match(`${violation.invariant ?? ''} ${violation.what}`, what);
  });
}
