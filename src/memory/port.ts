/**
 * One worker's way into a machine's shared memory: the views on it and the atomic operations over it.
 *
 * A port holds no state of the machine; every worker has its own over the same bytes. The emulated CPU
 * is a port (machine/cpu.ts), and kernel code is only ever handed CPUs, so that V8 sees one shape of
 * object in every access.
 *
 * @module
 */
import {
  type AtomicsForm,
  createSharedMemory,
  jsOps,
  type NativeOps,
  type SharedMemory,
  wasmOps,
} from './native.js';
import type { Shadow, ShadowHandle } from './shadow.js';
import type { Turnstile } from './turnstile.js';

/** What a worker needs to reach a machine's memory; survives `postMessage`. */
export interface MemoryHandle {
  readonly memory: SharedMemory;
  readonly atomics: AtomicsForm;
  /** What the checked build notes of each word; absent where nobody looks. */
  readonly shadow?: ShadowHandle;
}

/**
 * Shared memory of a fixed size. (A growable SharedArrayBuffer is 20 to 40 times slower to read.)
 * The operating system commits a page of it when it is first written.
 * @throws FaultlineError if the host does not have it
 */
export function createMemory(words: number, atomics: AtomicsForm = 'wasm'): MemoryHandle {
  return { memory: createSharedMemory(words), atomics };
}

/** The views and operations over one machine's memory. Indices are in words. */
export class MemoryPort {
  readonly words: Int32Array;
  readonly addresses: Float64Array;
  readonly bytes: Uint8Array;
  readonly load: NativeOps['load'];
  readonly store: NativeOps['store'];
  readonly countInside: NativeOps['countInside'];
  readonly storeRelaxed: NativeOps['storeRelaxed'];
  readonly add: NativeOps['add'];
  readonly or: NativeOps['or'];
  readonly and: NativeOps['and'];
  readonly swap: NativeOps['exchange'];
  readonly compareSwap: NativeOps['compareExchange'];
  readonly followLinks: NativeOps['follow'];
  readonly copyCells: NativeOps['copyCells'];
  readonly copyRunWhile: NativeOps['copyCellsWhile'];
  readonly changeRun: NativeOps['changeCells'];
  readonly takeCells: NativeOps['takeCells'];
  readonly clearRun: NativeOps['clearCells'];
  readonly fill: NativeOps['fill'];
  readonly copy: NativeOps['copy'];
  /** Operations performed through a build that counts of `#memory`; stays 0 in the parallel build. */
  operations = 0;
  /** Who may go next, in the turnstile build; null in any other, and where nobody controls. */
  turnstile: Turnstile | null = null;
  /** Where uses are noted, in the checked build; null in any other, and where nobody looks. */
  shadow: Shadow | null = null;

  constructor(handle: MemoryHandle) {
    const { buffer } = handle.memory;
    const ops = handle.atomics === 'wasm' ? wasmOps(handle.memory) : jsOps(handle.memory);
    this.words = new Int32Array(buffer);
    this.addresses = new Float64Array(buffer);
    this.bytes = new Uint8Array(buffer);
    this.load = ops.load;
    this.store = ops.store;
    this.countInside = ops.countInside;
    this.storeRelaxed = ops.storeRelaxed;
    this.add = ops.add;
    this.or = ops.or;
    this.and = ops.and;
    this.swap = ops.exchange;
    this.compareSwap = ops.compareExchange;
    this.followLinks = ops.follow;
    this.copyCells = ops.copyCells;
    this.copyRunWhile = ops.copyCellsWhile;
    this.changeRun = ops.changeCells;
    this.takeCells = ops.takeCells;
    this.clearRun = ops.clearCells;
    this.fill = ops.fill;
    this.copy = ops.copy;
  }
}
