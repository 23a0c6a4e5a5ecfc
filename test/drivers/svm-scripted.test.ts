/**
 * The SVM device with who does what when laid down: engines that wait, service threads that are
 * overtaken, and what broken drivers make of it.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';

import { read, readOnce, write, writeAddress, writeOnce } from '#memory';

import { EXIT_VIOLATION } from '../../src/base/bug.js';
import { EAGAIN, EFAULT } from '../../src/base/errno.js';
import {
  closeContext,
  createSvmDevice,
  getContext,
  openContext,
} from '../../src/drivers/svm/device.js';
import { type SvmDriver, svmDriver } from '../../src/drivers/svm/driver.js';
import { attachEngine, ENGINE_LOAD, ENGINE_STORE } from '../../src/drivers/svm/engine.js';
import { droppedFaults, raiseFault, wakeService } from '../../src/drivers/svm/fault-buffer.js';
import { svmTotals } from '../../src/drivers/svm/stats.js';
import {
  FAULT_BUFFER_ENTRIES,
  SvmContext,
  SvmDevice,
  SvmEngine,
} from '../../src/drivers/svm/types.js';
import { MachineFailure } from '../../src/host/failure.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocatedObjects, kzalloc } from '../../src/machine/slab.js';
import { tlbEnter, tlbExit } from '../../src/machine/tlb.js';
import { member, NULL } from '../../src/memory/layout.js';
import { storeWord } from '../../src/mm/access.js';
import { MmuIntervalNotifier } from '../../src/notifier/types.js';
import { mutexTrylock, mutexUnlock } from '../../src/sync/mutex.js';
import {
  asksTooEarly,
  diesOfInvalidation,
  Gate,
  gated,
  mapsTooEarly,
  neverInvalidates,
  neverRetries,
  openGate,
} from '../programs/broken-drivers.js';
import { EngineAccess } from '../programs/hmm-steps.js';
import { mapPages, pageVa } from '../support/address-space.js';
import { HmmPuppets } from '../support/hmm-puppets.js';
import type { Call } from '../support/puppets.js';

/** CPUs, by the part they play. */
const PROGRAM = 0;
const SERVICE = 1;
const ENGINE = 2;
const OTHER_ENGINE = 3;
const THIRD_ENGINE = 4;

const WINDOW = 4;
const PAGES = 128;

/** A device of some driver over an address space of its own, and a gate for the driver. */
class Scene {
  readonly puppets: HmmPuppets;
  readonly here: Cpu;
  readonly gate: Gate;
  readonly device: SvmDevice;
  readonly context: SvmContext;
  readonly #staleBefore: number;
  readonly #retriesBefore: number;

  constructor(puppets: HmmPuppets, driver: SvmDriver) {
    this.puppets = puppets;
    this.here = puppets.here;
    const { here } = this;
    const mm = puppets.newSpace();
    mapPages(here, mm, 0, PAGES);
    this.gate = kzalloc(here, Gate);
    this.device = createSvmDevice(here, driver === svmDriver ? 0 : this.gate, driver, WINDOW);
    this.context = openContext(here, this.device, mm);
    assert.notEqual(this.context, NULL);
    attachEngine(here, this.context);
    this.#staleBefore = svmTotals(here).staleAccesses;
    this.#retriesBefore = svmTotals(here).retries;
  }

  /** An access for an engine to make. */
  access(page: number, kind = ENGINE_LOAD, value = 0): EngineAccess {
    const { here, context } = this;
    const access = kzalloc(here, EngineAccess);
    write(here, access, EngineAccess.context, context);
    write(here, access, EngineAccess.kind, kind);
    write(here, access, EngineAccess.value, value);
    writeAddress(here, access, EngineAccess.va, pageVa(page));
    return access;
  }

  loaded(access: EngineAccess): number {
    return readOnce(this.here, access, EngineAccess.loaded);
  }

  store(page: number, value: number): void {
    assert.equal(storeWord(this.here, this.puppets.mm, pageVa(page), value), 0);
  }

  /** Reports a fault of nobody in particular; false if it was lost. */
  raise(page: number): boolean {
    const { here, context, device } = this;
    const engine = kzalloc(here, SvmEngine);
    write(here, engine, SvmEngine.task, here.area);
    getContext(here, context);
    const buffer = member(device, SvmDevice.faultBuffer);
    return raiseFault(here, buffer, context, pageVa(page), false, engine);
  }

  /** A CPU is told, and blocks. */
  async blocks(id: number, ...rest: CallArguments): Promise<Call> {
    const call = this.puppets.start(id, ...rest);
    await call.blocked();
    return call;
  }

  /** The program drops page 0; it frees the frame. */
  dropPage(): Promise<number> {
    return this.puppets.call(PROGRAM, 'dropRange', this.puppets.range(0, 1));
  }

  get stale(): number {
    return svmTotals(this.here).staleAccesses - this.#staleBefore;
  }

  get retries(): number {
    return svmTotals(this.here).retries - this.#retriesBefore;
  }
}
type CallArguments = HmmPuppets['start'] extends (id: number, ...rest: infer R) => Call ? R : never;

let puppets: HmmPuppets;
before(() => {
  puppets = new HmmPuppets(5);
});
after(() => puppets.stop());

describe('an engine', () => {
  let scene: Scene;
  beforeEach(() => {
    scene = new Scene(puppets, svmDriver);
  });

  test('that faults sleeps until it is answered', async () => {
    scene.store(0, 11);
    const access = scene.access(0);
    const running = await scene.blocks(ENGINE, 'engineRun', access);
    assert.equal(puppets.waitOf(ENGINE), 'fault replay');
    assert.equal(await puppets.call(SERVICE, 'serveOnce', scene.device), 1);
    assert.equal(await running.done, 0);
    assert.equal(scene.loaded(access), 11);
  });

  test('is told if there is nothing to be had', async () => {
    const running = await scene.blocks(ENGINE, 'engineRun', scene.access(PAGES + 5));
    assert.equal(await puppets.call(SERVICE, 'serveOnce', scene.device), 1);
    assert.equal(await running.done, -EFAULT);
  });

  test('whose fault was lost in a full ring waits for a replay, and faults again', async () => {
    for (let i = 0; i < FAULT_BUFFER_ENTRIES; i++) assert.ok(scene.raise(4 * (i % 16)));
    const lost = [
      await scene.blocks(ENGINE, 'engineRun', scene.access(1, ENGINE_STORE, 5)),
      await scene.blocks(OTHER_ENGINE, 'engineRun', scene.access(6, ENGINE_STORE, 5)),
      await scene.blocks(THIRD_ENGINE, 'engineRun', scene.access(PAGES + 1)),
    ];
    assert.equal(droppedFaults(scene.here, scene.device), 3);
    const serving = puppets.start(SERVICE, 'serve', scene.device);
    assert.deepEqual(await Promise.all(lost.map(({ done }) => done)), [0, 0, -EFAULT]);
    writeOnce(scene.here, scene.device, SvmDevice.stopping, 1);
    wakeService(scene.here, scene.device);
    assert.equal(await serving.done, FAULT_BUFFER_ENTRIES + 3);
  });

  test('inside an access holds up who takes its page away, for as long as that lasts', async () => {
    scene.store(0, 1);
    const { here, context } = scene;
    tlbEnter(here, member(context, SvmContext.tlb));
    const drop = await scene.blocks(PROGRAM, 'dropRange', puppets.range(0, 1));
    assert.equal(puppets.waitOf(PROGRAM), 'device TLB fence');
    const interval = member(context, SvmContext.interval);
    const seq = readOnce(here, interval, MmuIntervalNotifier.invalidateSeq);
    assert.equal(seq, puppets.state[0], 'it is set with the lock held, before anything else (M-8)');
    tlbExit(here);
    assert.equal(await drop.done, 0);
  });
});

describe('a service thread', () => {
  test('sleeps while there is nothing to do, and serves what is left when it is to stop', async () => {
    const scene = new Scene(puppets, svmDriver);
    const first = puppets.start(SERVICE, 'serve', scene.device);
    const access = scene.access(0);
    assert.equal(await puppets.call(ENGINE, 'engineRun', access), 0);
    assert.ok(scene.raise(8));
    writeOnce(scene.here, scene.device, SvmDevice.stopping, 1);
    wakeService(scene.here, scene.device);
    assert.equal(await first.done, 2);
    assert.ok(scene.raise(12));
    assert.equal(await puppets.call(SERVICE, 'serve', scene.device), 1, 'the ring is emptied');
  });

  test('is one of several: each fault wakes one, and all stop', async () => {
    const scene = new Scene(puppets, svmDriver);
    const services = [SERVICE, PROGRAM, THIRD_ENGINE].map((id) =>
      puppets.start(id, 'serve', scene.device),
    );
    for (let page = 0; page < 64; page += WINDOW) {
      const access = scene.access(page, ENGINE_STORE, page);
      const other = scene.access(64 + page, ENGINE_STORE, page);
      const both = [
        puppets.call(ENGINE, 'engineRun', access),
        puppets.call(OTHER_ENGINE, 'engineRun', other),
      ];
      assert.deepEqual(await Promise.all(both), [0, 0]);
    }
    writeOnce(scene.here, scene.device, SvmDevice.stopping, 1);
    wakeService(scene.here, scene.device);
    const served = await Promise.all(services.map(({ done }) => done));
    assert.equal(
      served.reduce((sum, one) => sum + one, 0),
      128 / WINDOW,
    );
  });
});

describe('a fault that is overtaken by an invalidation', () => {
  /** Up to where the driver knows the page of old, and it is free by now. */
  async function overtake(
    driver: SvmDriver,
  ): Promise<{ scene: Scene; engine: Call; service: Call }> {
    const scene = new Scene(puppets, driver);
    scene.store(0, 99);
    writeOnce(scene.here, scene.gate, Gate.closed, 1);
    const engine = await scene.blocks(ENGINE, 'engineRun', scene.access(0));
    const service = await scene.blocks(SERVICE, 'serveOnce', scene.device);
    assert.equal(puppets.waitOf(SERVICE), 'turn');
    assert.equal(await scene.dropPage(), 0);
    return { scene, engine, service };
  }

  async function goOn({
    scene,
    engine,
    service,
  }: Awaited<ReturnType<typeof overtake>>): Promise<void> {
    openGate(scene.here, scene.gate);
    assert.equal(await service.done, 1);
    assert.equal(await engine.done, 0);
  }

  test('tries again, if the driver is right (LT-3)', async () => {
    const started = await overtake(gated);
    await goOn(started);
    assert.equal(readOnce(started.scene.here, started.scene.gate, Gate.passed), 2);
    assert.equal(started.scene.stale, 0);
  });

  for (const driver of [neverRetries, asksTooEarly]) {
    test(`is a stale access, if the driver ${driver.opsName} (M-9)`, async () => {
      const started = await overtake(driver);
      await goOn(started);
      assert.equal(readOnce(started.scene.here, started.scene.gate, Gate.passed), 1);
      assert.equal(started.scene.stale, 1);
    });
  }

  test('is a stale access of another engine, if the driver maps too early', async () => {
    const { scene, engine, service } = await overtake(mapsTooEarly);
    const { here, context } = scene;
    assert.ok(mutexTrylock(here, member(context, SvmContext.lock)));
    openGate(here, scene.gate);
    while (puppets.waitOf(SERVICE) !== 'mutex') await new Promise(setImmediate);
    assert.equal(await puppets.call(OTHER_ENGINE, 'engineTry', scene.access(0)), 1);
    mutexUnlock(here, member(context, SvmContext.lock));
    assert.equal(await service.done, 1);
    assert.equal(await engine.done, 0);
    assert.ok(scene.stale >= 1);
  });

  test('waits for the driver that has its lock already, and then clears (LT-4)', async () => {
    const scene = new Scene(puppets, svmDriver);
    scene.store(0, 5);
    const { here, context } = scene;
    assert.ok(mutexTrylock(here, member(context, SvmContext.lock)));
    const access = scene.access(0);
    const engine = await scene.blocks(ENGINE, 'engineRun', access);
    const service = await scene.blocks(SERVICE, 'serveOnce', scene.device);
    assert.equal(puppets.waitOf(SERVICE), 'mutex');
    const drop = await scene.blocks(PROGRAM, 'dropRange', puppets.range(0, 1));
    assert.equal(puppets.waitOf(PROGRAM), 'mutex');
    const more = puppets.start(OTHER_ENGINE, 'serve', scene.device);
    mutexUnlock(here, member(context, SvmContext.lock));
    assert.equal(await service.done, 1);
    assert.equal(await drop.done, 0);
    assert.equal(await engine.done, 0, 'with or without another fault');
    writeOnce(here, scene.device, SvmDevice.stopping, 1);
    wakeService(here, scene.device);
    await more.done;
    assert.equal(scene.stale, 0);
    assert.equal(await puppets.call(ENGINE, 'engineTry', scene.access(0, ENGINE_STORE)), 0);
  });

  test('is counted as a retry by the driver there is', async () => {
    const scene = new Scene(puppets, svmDriver);
    scene.store(0, 5);
    const { here, context } = scene;
    assert.ok(mutexTrylock(here, member(context, SvmContext.lock)));
    const drop = await scene.blocks(PROGRAM, 'dropRange', puppets.range(0, 1));
    const engine = await scene.blocks(ENGINE, 'engineRun', scene.access(0));
    const service = await scene.blocks(SERVICE, 'serveOnce', scene.device);
    mutexUnlock(here, member(context, SvmContext.lock));
    assert.deepEqual(await Promise.all([drop.done, service.done, engine.done]), [0, 1, 0]);
    assert.ok(scene.retries >= 1, 'the callback was in front of it');
    assert.equal(scene.stale, 0);
  });
});

test('an invalidation that may not block is refused while the driver has its lock (M-17)', async () => {
  const { context, here } = new Scene(puppets, svmDriver);
  const range = puppets.range(0, 1);
  const lock = member(context, SvmContext.lock);
  assert.ok(mutexTrylock(here, lock));
  const nonblock = 'mmuNotifierInvalidateRangeStartNonblock';
  assert.equal(await puppets.call(PROGRAM, nonblock, range), -EAGAIN);
  puppets.assertIdle();
  mutexUnlock(here, lock);
  assert.equal(await puppets.call(PROGRAM, nonblock, range), 0);
  await puppets.call(PROGRAM, 'mmuNotifierInvalidateRangeEnd', range);
  puppets.assertIdle();
});

describe('a broken driver', () => {
  test('that never invalidates is a stale access as soon as the page is gone', async () => {
    const scene = new Scene(puppets, neverInvalidates);
    scene.store(0, 1);
    const engine = await scene.blocks(ENGINE, 'engineRun', scene.access(0));
    assert.equal(await puppets.call(SERVICE, 'serveOnce', scene.device), 1);
    assert.equal(await engine.done, 0);
    assert.equal(scene.stale, 0);
    assert.equal(await scene.dropPage(), 0);
    assert.equal(await puppets.call(ENGINE, 'engineTry', scene.access(0)), 1);
    assert.equal(scene.stale, 1);
  });

  test('that throws in invalidate ends the machine, with a report of who, where and holding what', async () => {
    const others = new HmmPuppets(5);
    const scene = new Scene(others, diesOfInvalidation);
    scene.store(0, 1);
    const engine = await scene.blocks(ENGINE, 'engineRun', scene.access(0));
    await assert.rejects(scene.dropPage(), (error: unknown) => {
      assert.ok(error instanceof MachineFailure);
      const [summary, ...details] = error.message.split('\n');
      assert.match(
        summary!,
        /^cpu 0 \(puppet 0\) died in .*invalidate at .*: TypeError: no such register \(holds mmap_lock\)/,
      );
      assert.match(details.join('\n'), /cpu 2 \(puppet 2\) waits for fault replay/);
      assert.equal(error.exitCode, EXIT_VIOLATION);
      return true;
    });
    await assert.rejects(engine.done, MachineFailure);
  });
});

describe('closing a context', () => {
  test('waits for an invalidation under way, and for who is inside an access', async () => {
    const scene = new Scene(puppets, svmDriver);
    scene.store(0, 1);
    const { here, context } = scene;
    tlbEnter(here, member(context, SvmContext.tlb));
    const drop = await scene.blocks(PROGRAM, 'dropRange', puppets.range(0, 1));
    const close = await scene.blocks(THIRD_ENGINE, 'closeContext', context);
    assert.equal(puppets.waitOf(THIRD_ENGINE), 'mutex');
    tlbExit(here);
    await Promise.all([drop.done, close.done]);
    puppets.assertIdle();
  });

  test('with a fault that is being served leaves it to be answered, and nothing mapped', async () => {
    const scene = new Scene(puppets, gated);
    const { here, context, device } = scene;
    const contexts = allocatedObjects(here, SvmContext);
    scene.store(0, 1);
    writeOnce(here, scene.gate, Gate.closed, 1);
    getContext(here, context); // the engine's
    const engine = await scene.blocks(ENGINE, 'engineRun', scene.access(0));
    const service = await scene.blocks(SERVICE, 'serveOnce', device);
    closeContext(here, context);
    assert.equal(read(here, device, SvmDevice.contextCount), 0);
    openGate(here, scene.gate);
    assert.equal(await service.done, 1);
    await engine.done;
    assert.equal(allocatedObjects(here, SvmContext), contexts);
    await puppets.call(ENGINE, 'putContext', context);
    assert.equal(allocatedObjects(here, SvmContext), contexts - 1);
  });

  test('beside the end of its address space is closed once, whoever is first', async () => {
    for (let round = 0; round < 20; round++) {
      const scene = new Scene(puppets, svmDriver);
      scene.store(0, 1);
      const exit = puppets.start(PROGRAM, 'mmput', puppets.mm);
      const close = puppets.start(ENGINE, 'closeContext', scene.context);
      await Promise.all([exit.done, close.done]);
    }
  });
});
