/**
 * Modules that are used while they are unloaded, and physical addresses that two drivers want at once.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EIO, ENOMEM, errnoName, EWOULDBLOCK } from '../../base/errno.js';
import { bootDevices } from '../../device/boot.js';
import {
  defineModule,
  findModuleGet,
  loadModule,
  moduleData,
  modulePut,
  setModuleData,
  unloadModule,
} from '../../device/module.js';
import { requestFreeMemRegion } from '../../device/region.js';
import { Resource } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { cacheline, type Field, type Ptr, struct, word } from '../../memory/layout.js';
import { defineProgram, task } from '../program.js';

const World = struct('modules_world', {
  first: word, // what came of the first task; its own
  line1: cacheline,
  second: word, // … of the second
});
type World = Ptr<'modules_world'>;

/** The module's variables. */
const Variables = struct('explored_module_variables', { magic: word });
type Variables = Ptr<'explored_module_variables'>;

const MAGIC = 0x4321;
const REGION_BYTES = 4096;

export const exploredModule = defineModule({
  name: 'explored_module',
  license: 'GPL',
  init(cpu, module) {
    const variables = kzalloc(cpu, Variables);
    if (variables === 0) return -ENOMEM;
    write(cpu, variables, Variables.magic, MAGIC);
    setModuleData(cpu, module, variables);
    return 0;
  },
  exit(cpu, module) {
    const variables = moduleData(cpu, module) as Variables;
    write(cpu, variables, Variables.magic, 0);
    kfree(cpu, Variables, variables);
  },
});

/** Its init never succeeds. */
const brokenModule = defineModule({
  name: 'explored_broken_module',
  license: 'GPL',
  init: () => -EIO,
});

function setup(cpu: Cpu): number {
  bootDevices(cpu);
  return kzalloc(cpu, World);
}

function setupLoaded(cpu: Cpu): number {
  const world = setup(cpu);
  if (loadModule(cpu, exploredModule) !== 0) bug('the module cannot be loaded');
  return world;
}

function useModule(cpu: Cpu, at: number): void {
  const module = findModuleGet(cpu, exploredModule);
  if (module === 0) return;
  const variables = moduleData(cpu, module) as Variables;
  if (read(cpu, variables, Variables.magic) !== MAGIC) bug('a module is used that is gone (I2)');
  modulePut(cpu, module);
  write(cpu, at as World, World.first, 1);
}

function unload(cpu: Cpu, at: number): void {
  write(cpu, at as World, World.second, unloadModule(cpu, exploredModule));
}

const load =
  (result: Field<'modules_world'>, module = exploredModule) =>
  (cpu: Cpu, at: number): void => {
    write(cpu, at as World, result, loadModule(cpu, module));
  };

const requestRegion =
  (result: Field<'modules_world'>) =>
  (cpu: Cpu, at: number): void => {
    const region = requestFreeMemRegion(cpu, REGION_BYTES);
    if (region < 0) bug(`no region, though there is room for thousands: ${errnoName(region)} (I2)`);
    write(cpu, at as World, result, region);
  };

function observeUse(cpu: Cpu, at: number): string {
  const used = read(cpu, at as World, World.first) !== 0 ? 'used' : 'gone';
  return read(cpu, at as World, World.second) === 0 ? used : 'busy';
}

function checkUse(cpu: Cpu, at: number): string | undefined {
  const result = read(cpu, at as World, World.second);
  return result === 0 || result === -EWOULDBLOCK ? undefined : errnoName(result);
}

/** What loading came to, of both tasks, in an order that does not depend on who was first. */
function loadResults(cpu: Cpu, at: number): string {
  const results = [World.first, World.second].map((field) => read(cpu, at as World, field));
  return results.map(resultName).sort().join(' and ');
}

function resultName(result: number): string {
  return result === 0 ? 'loaded' : errnoName(result);
}

/** What loading came to, and unloading. */
function observeReload(cpu: Cpu, at: number): string {
  const unloaded = read(cpu, at as World, World.second);
  const loading = resultName(read(cpu, at as World, World.first));
  return `${loading}, ${unloaded === 0 ? 'unloaded' : errnoName(unloaded)}`;
}

function checkRegions(cpu: Cpu, at: number): string | undefined {
  const starts = [World.first, World.second].map((field) =>
    readAddress(cpu, read(cpu, at as World, field) as Resource, Resource.start),
  );
  return starts[0] === starts[1] ? 'two have the same addresses (I1)' : undefined;
}

const common = {
  ops: { exploredModule, brokenModule },
  ramBytes: 64 * 4096,
  world: World,
} as const;

export const MODULE_PROGRAMS = [
  defineProgram({
    ...common,
    name: 'module-get',
    title: 'a module is used while it is unloaded',
    tasks: [task('use', useModule), task('unload', unload)],
    setup: setupLoaded,
    check: checkUse,
    observe: observeUse,
    outcomes: [
      { name: 'used', grade: 'ACCEPTABLE', description: 'before it was unloaded' },
      { name: 'gone', grade: 'ACCEPTABLE', description: 'it was not there any more, or going' },
      { name: 'busy', grade: 'ACCEPTABLE', description: 'so it was not unloaded' },
    ],
  }),
  defineProgram({
    ...common,
    name: 'module-load',
    title: 'a module is loaded twice at once',
    tasks: [task('load', load(World.first)), task('load too', load(World.second))],
    setup,
    observe: loadResults,
    outcomes: [
      {
        name: '-EEXIST and loaded',
        grade: 'ACCEPTABLE',
        description: 'who came second has waited until it was live',
      },
    ],
  }),
  defineProgram({
    ...common,
    name: 'module-load-fails',
    title: 'a module whose init fails is loaded twice at once',
    tasks: [
      task('load', load(World.first, brokenModule)),
      task('load too', load(World.second, brokenModule)),
    ],
    setup,
    observe: loadResults,
    outcomes: [
      {
        name: '-EBUSY and -EIO',
        grade: 'ACCEPTABLE',
        description: 'what has just failed is not tried',
      },
      {
        name: '-EIO and -EIO',
        grade: 'ACCEPTABLE',
        description: 'the second came when all was over',
      },
    ],
  }),
  defineProgram({
    ...common,
    name: 'module-reload',
    title: 'a module is loaded while it is unloaded',
    tasks: [task('load', load(World.first)), task('unload', unload)],
    setup: setupLoaded,
    observe: observeReload,
    outcomes: [
      { name: 'loaded, unloaded', grade: 'ACCEPTABLE', description: 'after it had gone' },
      { name: '-EEXIST, unloaded', grade: 'ACCEPTABLE', description: 'it was still there' },
      {
        name: '-EBUSY, unloaded',
        grade: 'ACCEPTABLE',
        description: 'it was going: nobody waits for that',
      },
    ],
  }),
  defineProgram({
    ...common,
    name: 'free-region',
    title: 'two drivers want physical addresses that nobody has',
    tasks: [task('driver', requestRegion(World.first)), task('other', requestRegion(World.second))],
    setup,
    check: checkRegions,
  }),
];
