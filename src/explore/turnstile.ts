/**
 * What the turnstiles of both engines have in common: they pass on to the controller.
 *
 * @module
 */
import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { MACHINE } from '../machine/types.js';
import type { MemoryPort } from '../memory/port.js';
import { OP_SPIN, type Turnstile } from '../memory/turnstile.js';
import type { Controller } from './controller.js';

/** Whoever is about to use words that are none of the machine's dies of it. @throws KernelBug */
export function checkPointer(
  memory: Int32Array,
  port: MemoryPort,
  kind: number,
  at: number,
  count: number,
): void {
  if (kind === OP_SPIN || (at >= MACHINE && at + count <= memory.length)) return;
  const what =
    at >= 0 && at < MACHINE ? 'NULL pointer dereference' : 'access outside of the memory';
  bug(`cpu ${(port as Cpu).id}: ${what}: word ${at}`);
}

export abstract class ControllerTurnstile implements Turnstile {
  readonly modelsLocks: boolean;
  protected readonly controller: Controller;

  constructor(controller: Controller, modelsLocks: boolean) {
    this.controller = controller;
    this.modelsLocks = modelsLocks;
  }

  abstract pass(port: MemoryPort, kind: number, at: number, count: number): void;
  abstract mustYield(port: MemoryPort, kind: number, at: number, count: number): boolean;

  log(at: number, count: number): void {
    this.controller.log(at, count);
  }

  sleepFor(port: MemoryPort, timeoutMs: number): void {
    this.controller.sleepFor((port as Cpu).id, timeoutMs);
  }

  wasWoken(port: MemoryPort): boolean {
    return this.controller.wasWoken((port as Cpu).id);
  }

  wake(at: number, count: number): number {
    return this.controller.wake(at, count);
  }

  clockMs(port: MemoryPort): number {
    return this.controller.clockMs((port as Cpu).id);
  }
}
