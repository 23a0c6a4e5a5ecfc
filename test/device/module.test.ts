import assert from 'node:assert/strict';
import { test } from 'node:test';

import { FaultlineError } from '../../src/base/bug.js';
import { EBUSY, EEXIST, EIO, ENOENT, ENOMEM, EWOULDBLOCK } from '../../src/base/errno.js';
import { ERAS, exportedSymbols, exportKind } from '../../src/device/exports.js';
import { licenseIsGplCompatible } from '../../src/device/license.js';
import {
  defineModule,
  findModule,
  getTaint,
  loadModule,
  type ModuleDefinition,
  modulePut,
  moduleRefcount,
  TAINT_PROPRIETARY_MODULE,
  tryModuleGet,
  unloadModule,
} from '../../src/device/module.js';
import { KernelModule } from '../../src/device/types.js';
import { failNth } from '../../src/machine/fail.js';
import { kernelLog } from '../../src/machine/printk.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { bootDeviceCpu, events, takeEvents } from '../support/devices.js';

let initResult = 0;

const callbacks: Pick<ModuleDefinition, 'init' | 'exit'> = {
  init() {
    events.push('init');
    return initResult;
  },
  exit() {
    events.push('exit');
  },
};

/** What a module that goes says of itself: whether it may be used. */
const mayBeUsed: boolean[] = [];
/** … and what loading it again came to. */
const loadedMeanwhile: number[] = [];
const goes = defineModule({
  name: 'goes',
  license: 'GPL',
  init: () => initResult,
  exit(cpu, module) {
    mayBeUsed.push(tryModuleGet(cpu, module));
    loadedMeanwhile.push(loadModule(cpu, goes));
  },
});

const free = defineModule({
  name: 'free_driver',
  license: 'GPL',
  needs: ['devm_memremap_pages', 'hmm_range_fault'],
  ...callbacks,
});
const closed = defineModule({
  name: 'closed_driver',
  license: 'Proprietary',
  needs: ['hmm_range_fault', 'devm_memremap_pages', 'mmu_interval_read_begin', 'down_read'],
  ...callbacks,
});
const plain = defineModule({
  name: 'plain_driver',
  license: 'Proprietary',
  needs: ['hmm_range_fault', 'migrate_vma_setup', 'down_read'],
  ...callbacks,
});
const stuck = defineModule({ name: 'stuck', license: 'GPL', init: () => 0 });
const data = defineModule({ name: 'data', license: 'Dual MIT/GPL' });
const typo = defineModule({ name: 'typo', license: 'GPL', needs: ['hmm_rang_fault', 'up_reed'] });

const boot = (era?: (typeof ERAS)[number]): ReturnType<typeof bootDeviceCpu> => {
  initResult = 0;
  return bootDeviceCpu({ free, goes, closed, plain, stuck, data, typo }, 256 * 1024, era);
};

test('a module is loaded once, and unloaded once', () => {
  const cpu = boot();
  assert.equal(unloadModule(cpu, free), -ENOENT);
  assert.equal(loadModule(cpu, free), 0);
  assert.deepEqual(takeEvents(), ['init']);
  assert.equal(loadModule(cpu, free), -EEXIST);
  assert.equal(moduleRefcount(cpu, findModule(cpu, free)), 0);
  assert.equal(unloadModule(cpu, free), 0);
  assert.deepEqual(takeEvents(), ['exit']);
  assert.equal(findModule(cpu, free), 0);
  assert.equal(unloadModule(cpu, free), -ENOENT);
  assert.equal(loadModule(cpu, free), 0, 'and may come again');
  assert.equal(getTaint(cpu), 0);
  assert.deepEqual(kernelLog(cpu), []);
});

test('a module in use is not unloaded, and one that goes is not used', () => {
  const cpu = boot();
  loadModule(cpu, free);
  const module = findModule(cpu, free);
  assert.equal(tryModuleGet(cpu, module), true);
  assert.equal(moduleRefcount(cpu, module), 1);
  assert.equal(unloadModule(cpu, free), -EWOULDBLOCK);
  assert.deepEqual(takeEvents(), ['init']);
  modulePut(cpu, module);
  assert.equal(unloadModule(cpu, free), 0);
  loadModule(cpu, goes);
  assert.equal(unloadModule(cpu, goes), 0);
  assert.deepEqual(mayBeUsed, [false], 'I2');
  assert.deepEqual(loadedMeanwhile, [-EBUSY], 'nobody waits for what goes');
  assert.deepEqual(warningTexts(cpu), []);
});

test('a put without a get is warned of', () => {
  const cpu = boot();
  loadModule(cpu, free);
  modulePut(cpu, findModule(cpu, free));
  assert.match(warningTexts(cpu).join(), /put without a get/);
});

test('an init that fails has not loaded anything, whichever way it fails', () => {
  const cpu = boot();
  initResult = -EIO;
  assert.equal(loadModule(cpu, free), -EIO);
  assert.deepEqual(takeEvents(), ['init'], 'no exit');
  assert.equal(findModule(cpu, free), 0);
  failNth(cpu, 1);
  assert.equal(loadModule(cpu, free), -ENOMEM);
  assert.deepEqual(takeEvents(), []);
  assert.equal(allocatedObjects(cpu, KernelModule), 0);
  initResult = 3;
  assert.equal(loadModule(cpu, free), 0);
  assert.match(kernelLog(cpu).join(), /free_driver: 'free_driver'->init suspiciously returned 3/);
});

test('what has an init and no exit stays; what has neither may go', () => {
  const cpu = boot();
  loadModule(cpu, stuck);
  assert.equal(unloadModule(cpu, stuck), -EBUSY);
  loadModule(cpu, data);
  assert.equal(unloadModule(cpu, data), 0);
});

test('a proprietary module gets no symbol that is for GPL modules only, and its init never runs', () => {
  const cpu = boot();
  assert.equal(loadModule(cpu, closed), -ENOENT);
  assert.deepEqual(takeEvents(), []);
  assert.deepEqual(kernelLog(cpu), [
    "closed_driver: module license 'Proprietary' taints kernel.",
    'closed_driver: Unknown symbol devm_memremap_pages (err -2)',
    'closed_driver: Unknown symbol mmu_interval_read_begin (err -2)',
  ]);
  assert.equal(getTaint(cpu), TAINT_PROPRIETARY_MODULE, 'though it was not loaded');
  assert.equal(allocatedObjects(cpu, KernelModule), 0);
  assert.deepEqual(warningTexts(cpu), [], 'that is no fault of the kernel');
});

test('a proprietary module may use what is for all, and taints the kernel, which is said once', () => {
  const cpu = boot();
  assert.equal(loadModule(cpu, plain), 0);
  assert.deepEqual(takeEvents(), ['init']);
  unloadModule(cpu, plain);
  loadModule(cpu, plain);
  assert.deepEqual(kernelLog(cpu), ["plain_driver: module license 'Proprietary' taints kernel."]);
});

test('a symbol that there is not is unknown to everybody', () => {
  const cpu = boot();
  assert.equal(loadModule(cpu, typo), -ENOENT);
  assert.deepEqual(kernelLog(cpu), [
    'typo: Unknown symbol hmm_rang_fault (err -2)',
    'typo: Unknown symbol up_reed (err -2)',
  ]);
});

test('devm_memremap_pages was for all until it was reclassified, as was hmm_devmem_add', () => {
  for (const symbol of ['devm_memremap_pages', 'hmm_devmem_add']) {
    assert.equal(exportKind(symbol, ERAS.indexOf('4.18')), 'plain');
    assert.equal(exportKind(symbol, ERAS.indexOf('5.0')), 'gpl');
  }
  assert.equal(exportKind('hmm_devmem_add', ERAS.indexOf('6.12')), undefined);
  const needs = defineModule({
    name: 'old_driver',
    license: 'Proprietary',
    needs: ['devm_memremap_pages', 'hmm_devmem_add', 'hmm_vma_fault'],
  });
  const results = ERAS.map((era) => loadModule(bootDeviceCpu({ needs }, 256 * 1024, era), needs));
  assert.deepEqual(results, [0, -ENOENT, -ENOENT]);
});

test('every symbol has a kind in each era, or none', () => {
  const symbols = exportedSymbols();
  assert.ok(symbols.length > 50);
  for (const { name, kinds } of symbols) {
    assert.equal(kinds.length, ERAS.length, name);
    for (const kind of kinds) assert.ok(kind === undefined || /^(plain|gpl)$/.test(kind), name);
  }
  const today = ERAS.indexOf('6.12');
  for (const symbol of ['hmm_range_fault', 'migrate_vma_pages', 'down_read', 'complete']) {
    assert.equal(exportKind(symbol, today), 'plain', symbol);
  }
  for (const symbol of ['memunmap_pages', 'percpu_ref_init', 'mmput', 'pci_alloc_p2pmem']) {
    assert.equal(exportKind(symbol, today), 'gpl', symbol);
  }
});

test('licenses are compatible as they are spelled', () => {
  const compatible = ['GPL', 'GPL v2', 'GPL and additional rights', 'Dual BSD/GPL', 'Dual MPL/GPL'];
  for (const license of compatible) assert.equal(licenseIsGplCompatible(license), true, license);
  for (const license of ['gpl', 'GPLv2', 'MIT', 'Proprietary', '']) {
    assert.equal(licenseIsGplCompatible(license), false, license);
  }
});

test('a definition that cannot be meant is refused, with the reason', () => {
  const cases: [object, RegExp][] = [
    [{ license: 'GPL' }, /needs a name/],
    [{ name: 'x' }, /x needs a license/],
    [{ name: 3, license: 'GPL' }, /name is a number, not a string/],
    [{ name: 'x', license: 'GPL', init: 3 }, /init is a number, not a function/],
    [{ name: 'x', license: 'GPL', needs: {} }, /list of symbols/],
    [{ name: 'x', license: 'GPL', probe: () => 0 }, /no member probe; there are name, license/],
  ];
  for (const [definition, message] of cases) {
    assert.throws(
      () => defineModule(definition as ModuleDefinition),
      (error: unknown) => error instanceof FaultlineError && message.test(error.message),
    );
  }
});
