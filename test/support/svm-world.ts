/**
 * A program, an engine and a service thread of one device on the test's own thread: each fault is served
 * where it is raised.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, write } from '#memory';

import {
  closeContext,
  createSvmDevice,
  getContext,
  openContext,
} from '../../src/drivers/svm/device.js';
import * as driverModule from '../../src/drivers/svm/driver.js';
import { type SvmDriver, svmDriver } from '../../src/drivers/svm/driver.js';
import {
  attachEngine,
  ENGINE_LOAD,
  initEngine,
  tryEngineAccess,
} from '../../src/drivers/svm/engine.js';
import { raiseFault } from '../../src/drivers/svm/fault-buffer.js';
import {
  createFaultService,
  type FaultService,
  serveBatch,
} from '../../src/drivers/svm/fault-service.js';
import { type SvmTotals, svmTotals } from '../../src/drivers/svm/stats.js';
import {
  ENGINE_FAULTED,
  ENGINE_REPLAY,
  SvmContext,
  SvmDevice,
  SvmEngine,
} from '../../src/drivers/svm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { kzalloc } from '../../src/machine/slab.js';
import { member, NULL } from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import type { MmStruct } from '../../src/mm/types.js';
import * as brokenDrivers from '../programs/broken-drivers.js';
import { bootSpace, pageVa } from './address-space.js';

/** Pages a serviced fault looks at. */
export const WINDOW = 4;

export class SvmWorld {
  /** The CPU of the program; the others are the device's. */
  readonly cpu: Cpu;
  readonly mm: MmStruct;
  readonly engineCpu: Cpu;
  readonly #serviceCpu: Cpu;
  readonly #engine: SvmEngine;
  readonly #services = new Map<SvmDevice, FaultService>();

  constructor(ramBytes?: number) {
    const { cpus, cpu, mm } = bootSpace([driverModule, brokenDrivers], 3, ramBytes);
    this.cpu = cpu;
    this.mm = mm;
    this.engineCpu = cpus[1]!;
    this.#serviceCpu = cpus[2]!;
    this.#engine = kzalloc(cpu, SvmEngine);
    initEngine(this.engineCpu, this.#engine);
  }

  newDevice(driver: SvmDriver = svmDriver): SvmDevice {
    const device = createSvmDevice(this.cpu, 0, driver, WINDOW);
    const service = createFaultService(this.#serviceCpu, device);
    assert.ok(service);
    this.#services.set(device, service);
    return device;
  }

  /** The device as one address space sees it; ours, if none is named. */
  open(device: SvmDevice, mm = this.mm): SvmContext {
    const context = openContext(this.cpu, device, mm);
    assert.notEqual(context, NULL);
    attachEngine(this.engineCpu, context);
    return context;
  }

  close(context: SvmContext): void {
    closeContext(this.cpu, context);
  }

  /** True if the engine needs no fault for it; a load's value is in `loaded`. */
  reaches(context: SvmContext, page: number, kind = ENGINE_LOAD, value = 0): boolean {
    return tryEngineAccess(this.engineCpu, context, pageVa(page), kind, value);
  }

  get loaded(): number {
    return this.engineCpu.loaded;
  }

  /** Reports a fault of the engine. */
  raise(context: SvmContext, page: number, isWrite: boolean, engine = this.#engine): void {
    const { engineCpu } = this;
    const device = this.#deviceOf(context);
    write(engineCpu, engine, SvmEngine.state, ENGINE_FAULTED);
    getContext(engineCpu, context);
    const buffer = member(device, SvmDevice.faultBuffer);
    assert.ok(raiseFault(engineCpu, buffer, context, pageVa(page), isWrite, engine));
  }

  /** Serves what has been reported; how much that was. */
  serve(device: SvmDevice): number {
    return serveBatch(this.#serviceCpu, this.#services.get(device)!);
  }

  /** What became of the engine's fault: 0 or -errno. */
  answerOf(engine = this.#engine): number {
    const state = read(this.cpu, engine, SvmEngine.state);
    assert.notEqual(state, ENGINE_FAULTED, 'it has been answered');
    return state === ENGINE_REPLAY ? 0 : state;
  }

  newEngine(): SvmEngine {
    const engine = kzalloc(this.cpu, SvmEngine);
    initEngine(this.engineCpu, engine);
    return engine;
  }

  /** An access as an engine makes it, with as many faults as it takes: 0 or -errno. */
  access(context: SvmContext, page: number, kind = ENGINE_LOAD, value = 0): number {
    for (let tries = 0; tries < 10; tries++) {
      if (this.reaches(context, page, kind, value)) return 0;
      this.raise(context, page, kind !== ENGINE_LOAD);
      assert.equal(this.serve(this.#deviceOf(context)), 1);
      if (this.answerOf() !== 0) return this.answerOf();
    }
    throw new Error('the fault is served again and again');
  }

  /** The program's store. */
  store(page: number, value: number, mm = this.mm): void {
    assert.equal(storeWord(this.cpu, mm, pageVa(page), value), 0);
  }

  /** The program's load. */
  load(page: number, mm = this.mm): number {
    assert.equal(loadWord(this.cpu, mm, pageVa(page)), 0);
    return this.cpu.loaded;
  }

  get totals(): SvmTotals {
    return svmTotals(this.cpu);
  }

  #deviceOf(context: SvmContext): SvmDevice {
    return read(this.cpu, context, SvmContext.device);
  }
}
