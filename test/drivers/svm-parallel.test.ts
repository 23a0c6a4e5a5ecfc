/**
 * Devices that compute in memory which CPUs change all the time, with more workers than cores.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, writeOnce } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import {
  closeContext,
  createSvmDevice,
  destroySvmDevice,
  openContext,
} from '../../src/drivers/svm/device.js';
import * as driverModule from '../../src/drivers/svm/driver.js';
import { type SvmDriver, svmDriver } from '../../src/drivers/svm/driver.js';
import { wakeService } from '../../src/drivers/svm/fault-buffer.js';
import { svmDriverOver } from '../../src/drivers/svm/mirror-driver.js';
import { bootSvmStats, type SvmTotals, svmTotals } from '../../src/drivers/svm/stats.js';
import { SvmDevice, SvmEngine } from '../../src/drivers/svm/types.js';
import type { MemberResult } from '../../src/host/crew.js';
import { bootMachine } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { kzalloc } from '../../src/machine/slab.js';
import { member, NULL } from '../../src/memory/layout.js';
import { listEmpty } from '../../src/memory/list.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { mmAlloc, useMm } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import { mmapWriteLock, mmapWriteUnlock } from '../../src/mm/mmap-lock.js';
import { MmStruct } from '../../src/mm/types.js';
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from '../../src/mm/uapi.js';
import { MmuNotifierSubscriptions } from '../../src/notifier/types.js';
import { PROTOCOLS } from '../../src/protocols/registry.js';
import { SVM_DRIVER_MODULE } from '../../src/workloads/built-ins.js';
import { assertNoLeak, framesAccountedFor } from '../../src/workloads/leak.js';
import * as brokenDrivers from '../programs/broken-drivers.js';
import {
  audit,
  auditor,
  changer,
  Crowd,
  type CrowdArgs,
  engine,
  forker,
  protector,
  service,
  SHARED,
  SHARED_PAGES,
  VOLATILE,
  VOLATILE_PAGES,
} from '../programs/crowd.js';
import { makeCrew, programUrl } from '../support/crew.js';

const WINDOW = 8;
const MIRROR_DRIVERS = import.meta.resolve('../../src/drivers/svm/mirror-driver.js');

interface Cast {
  readonly devices: number;
  readonly engines: number;
  /** Programs of the CPUs behind the engines and the service threads. */
  readonly others: readonly string[];
  readonly rounds: number;
  readonly seed?: number;
  readonly driver?: SvmDriver;
  /** The driver keeps the rules. */
  readonly isSound?: boolean;
}

interface Played {
  readonly totals: SvmTotals;
  /** Additions to the shared pages: those made, and those that are there. */
  readonly added: number;
  readonly found: number;
  readonly refused: number;
  readonly values: ReadonlyMap<string, unknown>;
  /** Entries of the devices in the end, and those of them that the CPUs do not have. */
  readonly seen: number;
  readonly wrong: number;
}

function mapRegion(cpu: Cpu, mm: MmStruct, start: number, pages: number): void {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  const prot = PROT_READ | PROT_WRITE;
  assert.equal(mmap(cpu, mm, start, pages * PAGE_SIZE, prot, flags, NULL, 0), start);
}

/** What the CPUs can say of the end: sums, page tables, notifiers. */
function takeStock(boot: Cpu, args: CrowdArgs): Pick<Played, 'found' | 'seen' | 'wrong'> {
  const { mm, contexts } = args;
  const total = { wrong: 0, seen: 0 };
  mmapWriteLock(boot, mm);
  for (const context of contexts) audit(boot, mm, context, total);
  mmapWriteUnlock(boot, mm);
  let found = 0;
  for (let page = 0; page < SHARED_PAGES; page++) {
    assert.equal(loadWord(boot, mm, SHARED + page * PAGE_SIZE), 0);
    found += boot.loaded;
  }
  const subscriptions = read(boot, mm, MmStruct.subscriptions);
  assert.equal(read(boot, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges), 0);
  assert.equal(read(boot, subscriptions, MmuNotifierSubscriptions.invalidateSeq) & 1, 0, 'INV-21');
  assert.ok(listEmpty(boot, member(subscriptions, MmuNotifierSubscriptions.deferred)));
  return { found, ...total };
}

/** Lets them all run, takes stock, and takes everything down: no frame may be missing. */
async function play(cast: Cast): Promise<Played> {
  const names = [
    ...Array<string>(cast.engines).fill(engine.name),
    ...Array<string>(cast.devices).fill(service.name),
    ...cast.others,
  ];
  const machine = bootMachine({ cpus: names.length, ramBytes: 16 << 20 });
  const boot = machine.cpu;
  bootMm(boot);
  bootSvmStats(boot);
  registerOps(boot, [driverModule, brokenDrivers]);
  const frames = framesAccountedFor(boot);
  const mm = mmAlloc(boot);
  useMm(boot, mm);
  mapRegion(boot, mm, SHARED, SHARED_PAGES);
  mapRegion(boot, mm, VOLATILE, VOLATILE_PAGES);
  for (let page = 0; page < SHARED_PAGES; page++) storeWord(boot, mm, SHARED + page * PAGE_SIZE, 0);
  const devices = Array.from({ length: cast.devices }, () =>
    createSvmDevice(boot, 0, cast.driver ?? svmDriver, WINDOW),
  );
  const crowd = kzalloc(boot, Crowd);
  writeOnce(boot, crowd, Crowd.running, cast.engines);
  const args: CrowdArgs = {
    crowd,
    mm,
    devices,
    contexts: devices.map((device) => openContext(boot, device, mm)),
    engines: Array.from({ length: cast.engines }, () => kzalloc(boot, SvmEngine)),
    rounds: cast.rounds,
    seed: cast.seed ?? 1,
  };
  const values = await run(machine, names, args);
  const stock = takeStock(boot, args);
  const totals = svmTotals(boot);
  const added = read(boot, crowd, Crowd.added);
  const refused = read(boot, crowd, Crowd.refused);
  for (const context of args.contexts) closeContext(boot, context);
  for (const device of devices) destroySvmDevice(boot, device);
  mmput(boot, mm);
  assertNoLeak(boot, frames);
  return { totals, added, refused, values, ...stock };
}

/** Runs the crew to its end: the service threads stop when the others are done. */
async function run(
  machine: ReturnType<typeof bootMachine>,
  names: readonly string[],
  args: CrowdArgs,
): Promise<Map<string, unknown>> {
  const { cpu: boot } = machine;
  const module = programUrl('crowd');
  const members = names.map((entry) => ({ name: entry, module, entry, args }));
  const crew = makeCrew(machine, members, {
    opsModules: [SVM_DRIVER_MODULE, programUrl('broken-drivers'), MIRROR_DRIVERS],
    watchdog: { stallMs: 30_000 },
  });
  await crew.ready();
  crew.start();
  const ended = crew.results();
  const timer = setInterval(() => {
    if (read(boot, args.crowd, Crowd.running) > 0) return;
    for (const device of args.devices) {
      writeOnce(boot, device, SvmDevice.stopping, 1);
      wakeService(boot, device);
    }
  }, 5);
  const results: MemberResult[] = await ended.finally(() => {
    clearInterval(timer);
  });
  return new Map(names.map((name, cpu) => [`${name} ${cpu}`, results[cpu]?.value]));
}

/** Nothing stale, nothing lost, and it could have been: devices had to try again. */
function assertSound(played: Played): void {
  assert.equal(played.totals.staleAccesses, 0);
  assert.equal(played.found, played.added, 'additions');
  assert.equal(played.wrong, 0, 'entries of devices that the CPUs do not have');
  for (const [name, value] of played.values) {
    if (name.startsWith(forker.name)) assert.ok(Number(value) > 0, `${name}: ${String(value)}`);
    if (!name.startsWith(auditor.name)) continue;
    const { wrong, seen } = value as ReturnType<typeof auditor>;
    assert.equal(wrong, 0);
    assert.ok(seen > 0);
  }
}

/** Plays until `isSeen`, with another seed each time. */
async function playUntil(cast: Cast, isSeen: (played: Played) => boolean): Promise<Played> {
  for (let seed = 1; ; seed++) {
    const played = await play({ ...cast, seed });
    if (isSeen(played)) return played;
    assert.ok(seed < 60, 'what was to be seen was not, in 60 rounds');
    if (cast.driver === undefined || cast.isSound === true) assertSound(played);
  }
}

const ROUNDS = 150;
const retried = ({ totals }: Played): boolean => totals.retries > 0;

describe('with more CPUs than cores', () => {
  test('CPUs unmap, drop and protect pages that two devices use', async () => {
    const others = [changer.name, changer.name, auditor.name];
    const played = await playUntil({ devices: 2, engines: 2, others, rounds: ROUNDS }, retried);
    assertSound(played);
    assert.ok(played.totals.invalidations > 0 && played.totals.faults > 0);
    assert.equal(played.refused, played.totals.refused);
  });

  test('children are made and end while devices add to the pages they share (COW)', async () => {
    const others = [forker.name, forker.name, auditor.name];
    const played = await playUntil({ devices: 2, engines: 2, others, rounds: ROUNDS }, retried);
    assertSound(played);
    assert.ok(played.totals.invalidationsByEvent['PROTECTION_PAGE']! > 0);
    assert.ok(played.totals.invalidationsByEvent['CLEAR']! > 0);
  });

  test('pages are protected and hidden while devices add to them', async () => {
    const others = [protector.name, protector.name, auditor.name];
    const played = await playUntil({ devices: 2, engines: 3, others, rounds: ROUNDS }, retried);
    assertSound(played);
  });

  test('everything at once, on three devices', async () => {
    const others = [changer.name, forker.name, protector.name, changer.name, auditor.name];
    const played = await playUntil({ devices: 3, engines: 4, others, rounds: ROUNDS }, retried);
    assertSound(played);
  });
});

describe('control: it is seen', () => {
  const others = [changer.name, changer.name, protector.name];
  for (const driver of [
    brokenDrivers.neverRetries,
    brokenDrivers.asksTooEarly,
    brokenDrivers.neverInvalidates,
  ]) {
    test(`if the driver ${driver.opsName}`, async () => {
      const cast = { devices: 2, engines: 2, others, rounds: 300, driver };
      const isSeen = ({ totals, wrong, found, added }: Played): boolean =>
        totals.staleAccesses > 0 || wrong > 0 || found !== added;
      await playUntil(cast, isSeen);
    });
  }
});

describe('over each protocol that is safe', () => {
  const others = [changer.name, changer.name, protector.name, auditor.name];
  for (const { name } of PROTOCOLS.filter(({ flaw }) => flaw === undefined)) {
    test(`${name}: nothing is stale, nothing is lost`, async () => {
      const driver = svmDriverOver(name);
      const cast = { devices: 2, engines: 2, others, driver, rounds: 300, isSound: true };
      assertSound(await playUntil(cast, retried));
    });
  }
});
