/**
 * The machine's atomic operations, in two forms: a tiny WebAssembly module over the shared memory, and
 * JavaScript's `Atomics`.
 *
 * V8 compiles `Atomics.load` to a call of a builtin, but it inlines the wrapper of a WebAssembly
 * export, so a load through the module costs a third. The module is written out here instruction by
 * instruction: it is small, needs no tool to build, and every line can be checked against the
 * WebAssembly threads specification.
 *
 * Besides the word operations there are four on runs of memory, so that page tables can be read and
 * written at the speed of a copy. A *cell* is 64 bits, two words at an even index: the size of a page
 * table entry.
 *
 * Ordering   `load`, `store` and the read-modify-writes are sequentially consistent. `storeRelaxed` and
 *            `copyCells` are plain WebAssembly accesses: no compiler moves or splits them (they stand
 *            behind a call), but they order nothing.
 *
 * @module
 */

/** Everything the door to shared memory is made of. All indices and counts are in words unless named. */
export interface NativeOps {
  readonly load: (index: number) => number;
  readonly store: (index: number, value: number) => void;
  readonly storeRelaxed: (index: number, value: number) => void;
  readonly add: (index: number, value: number) => number;
  readonly or: (index: number, value: number) => number;
  readonly and: (index: number, value: number) => number;
  readonly exchange: (index: number, value: number) => number;
  /** Returns what was there; it was replaced iff that equals `expected`. */
  readonly compareExchange: (index: number, expected: number, replacement: number) => number;
  /** Copies `count` cells, each read and written whole. */
  readonly copyCells: (to: number, from: number, count: number) => void;
  /** Atomically exchanges each of `count` cells with 0 and stores what was there at `to`. */
  readonly takeCells: (to: number, from: number, count: number) => void;
  /** Sets `count` cells to 0, each written whole. */
  readonly clearCells: (to: number, count: number) => void;
  /** Sets `count` words to the byte `value`, four times over. */
  readonly fill: (to: number, value: number, count: number) => void;
  /** Copies `count` words; memory nobody else writes. */
  readonly copy: (to: number, from: number, count: number) => void;
}

/** Which form the word operations take. */
export type AtomicsForm = 'wasm' | 'js';

const I32 = 0x7f;
const END = 0x0b;
const LOOP = 0x03;
const NO_RESULT = 0x40;
const BR_IF_0 = [0x0d, 0];
const SHL = 0x74;
const ADD = 0x6a;
const LT_U = 0x49;
const ATOMIC = 0xfe;
const ALIGN_4 = [2, 0];
const ALIGN_8 = [3, 0];
const I32_STORE = [0x36, ...ALIGN_4];
const I64_LOAD = [0x29, ...ALIGN_8];
const I64_STORE = [0x37, ...ALIGN_8];
const I64_ZERO = [0x42, 0];
const MEMORY_COPY = [0xfc, 10, 0, 0];
const MEMORY_FILL = [0xfc, 11, 0];

const get = (local: number): number[] => [0x20, local];
const set = (local: number): number[] => [0x21, local];
const tee = (local: number): number[] => [0x22, local];
const constant = (value: number): number[] => [0x41, value];
/** A word index as the byte address WebAssembly wants. */
const bytes = (local: number): number[] => [...get(local), ...constant(2), SHL];
const atomic = (opcode: number): number[] => [ATOMIC, opcode, ...ALIGN_4];

/** Runs `body` for each cell; locals: 0 = to, 1 = from, 2 = count on entry, then all byte addresses. */
const forEachCell = (body: readonly number[]): number[] => [
  ...[...bytes(0), ...set(0)],
  ...[...bytes(1), ...set(1)],
  ...[...get(2), ...constant(3), SHL, ...get(1), ADD, ...set(2)], // end of `from`
  ...[LOOP, NO_RESULT],
  ...body,
  ...[...get(0), ...constant(8), ADD, ...set(0)],
  ...[...get(1), ...constant(8), ADD, ...tee(1), ...get(2), LT_U, ...BR_IF_0],
  END,
];

interface WasmFunction {
  readonly parameters: number;
  readonly results: 0 | 1;
  readonly body: readonly number[];
}

const FUNCTIONS: Readonly<Record<keyof NativeOps, WasmFunction>> = {
  load: { parameters: 1, results: 1, body: [...bytes(0), ...atomic(0x10)] },
  store: { parameters: 2, results: 0, body: [...bytes(0), ...get(1), ...atomic(0x17)] },
  storeRelaxed: { parameters: 2, results: 0, body: [...bytes(0), ...get(1), ...I32_STORE] },
  add: { parameters: 2, results: 1, body: [...bytes(0), ...get(1), ...atomic(0x1e)] },
  and: { parameters: 2, results: 1, body: [...bytes(0), ...get(1), ...atomic(0x2c)] },
  or: { parameters: 2, results: 1, body: [...bytes(0), ...get(1), ...atomic(0x33)] },
  exchange: { parameters: 2, results: 1, body: [...bytes(0), ...get(1), ...atomic(0x41)] },
  compareExchange: {
    parameters: 3,
    results: 1,
    body: [...bytes(0), ...get(1), ...get(2), ...atomic(0x48)],
  },
  copyCells: {
    parameters: 3,
    results: 0,
    body: forEachCell([...get(0), ...get(1), ...I64_LOAD, ...I64_STORE]),
  },
  takeCells: {
    parameters: 3,
    results: 0,
    body: forEachCell([
      ...get(0),
      ...[...get(1), ...I64_ZERO, ATOMIC, 0x42, ...ALIGN_8], // i64.atomic.rmw.xchg
      ...I64_STORE,
    ]),
  },
  clearCells: {
    parameters: 2,
    results: 0,
    body: [
      ...[...bytes(0), ...set(0)],
      ...[...get(1), ...constant(3), SHL, ...get(0), ADD, ...set(1)], // the end
      ...[LOOP, NO_RESULT],
      ...[...get(0), ...I64_ZERO, ...I64_STORE],
      ...[...get(0), ...constant(8), ADD, ...tee(0), ...get(1), LT_U, ...BR_IF_0],
      END,
    ],
  },
  fill: { parameters: 3, results: 0, body: [...bytes(0), ...get(1), ...bytes(2), ...MEMORY_FILL] },
  copy: {
    parameters: 3,
    results: 0,
    body: [...bytes(0), ...bytes(1), ...bytes(2), ...MEMORY_COPY],
  },
};

function unsigned(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  do {
    const low = rest & 0x7f;
    rest >>>= 7;
    out.push(rest === 0 ? low : low | 0x80);
  } while (rest !== 0);
  return out;
}

const vector = (items: readonly (readonly number[])[]): number[] => [
  ...unsigned(items.length),
  ...items.flat(),
];
const sized = (content: readonly number[]): number[] => [...unsigned(content.length), ...content];
const section = (id: number, content: readonly number[]): number[] => [id, ...sized(content)];
const name = (text: string): number[] => sized([...Buffer.from(text)]);

const FUNCTION_TYPE = 0x60;
const SHARED_WITH_MAXIMUM = 3;
const MEMORY_IMPORT = 2;
const WASM_PAGES_MAX = 65536;

function moduleBytes(): Uint8Array<ArrayBuffer> {
  const functions = Object.entries(FUNCTIONS);
  const types = functions.map(([, f]) => [
    FUNCTION_TYPE,
    ...vector(Array.from({ length: f.parameters }, () => [I32])),
    ...vector(Array.from({ length: f.results }, () => [I32])),
  ]);
  const limits = [SHARED_WITH_MAXIMUM, ...unsigned(1), ...unsigned(WASM_PAGES_MAX)];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector(types)),
    ...section(2, vector([[...name('faultline'), ...name('memory'), MEMORY_IMPORT, ...limits]])),
    ...section(3, vector(functions.map((_, index) => unsigned(index)))),
    ...section(7, vector(functions.map(([key], index) => [...name(key), 0, ...unsigned(index)]))),
    ...section(10, vector(functions.map(([, f]) => sized([0, ...f.body, END])))),
  ]);
}

/** The one thing of a shared `WebAssembly.Memory` that is used here. */
export interface SharedMemory {
  readonly buffer: SharedArrayBuffer;
}

/** TypeScript declares WebAssembly in the browser's library only; this is the part used here. */
interface WebAssemblyApi {
  readonly Memory: new (limits: {
    initial: number;
    maximum: number;
    shared: boolean;
  }) => SharedMemory;
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
  readonly Instance: new (
    module: object,
    imports: Readonly<Record<string, Readonly<Record<string, SharedMemory>>>>,
  ) => { readonly exports: object };
}
const { WebAssembly } = globalThis as unknown as { readonly WebAssembly: WebAssemblyApi };

const WASM_PAGE_WORDS = 65536 / 4;

/** Zeroed shared memory of a fixed size, in whole pages of 64 KiB. */
export function createSharedMemory(words: number): SharedMemory {
  const pages = Math.ceil(words / WASM_PAGE_WORDS);
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

/** The WebAssembly form of the operations over `memory`. */
export function wasmOps(memory: SharedMemory): NativeOps {
  const module = new WebAssembly.Module(moduleBytes());
  const instance = new WebAssembly.Instance(module, { faultline: { memory } });
  return instance.exports as NativeOps;
}

/** The `Atomics` form of the operations over the same memory. */
export function jsOps(memory: SharedMemory): NativeOps {
  const words = new Int32Array(memory.buffer);
  const octets = new Uint8Array(memory.buffer);
  const copyCells = (to: number, from: number, count: number): void => {
    for (let i = 0; i < 2 * count; i++) {
      Atomics.store(words, to + i, Atomics.load(words, from + i));
    }
  };
  return {
    load: (index) => Atomics.load(words, index),
    store: (index, value) => {
      Atomics.store(words, index, value);
    },
    storeRelaxed: (index, value) => {
      Atomics.store(words, index, value);
    },
    add: (index, value) => Atomics.add(words, index, value),
    or: (index, value) => Atomics.or(words, index, value),
    and: (index, value) => Atomics.and(words, index, value),
    exchange: (index, value) => Atomics.exchange(words, index, value),
    compareExchange: (index, expected, replacement) =>
      Atomics.compareExchange(words, index, expected, replacement),
    copyCells,
    takeCells: (to, from, count) => {
      for (let i = 0; i < 2 * count; i++) {
        Atomics.store(words, to + i, Atomics.exchange(words, from + i, 0));
      }
    },
    clearCells: (to, count) => {
      for (let i = 0; i < 2 * count; i++) Atomics.store(words, to + i, 0);
    },
    fill: (to, value, count) => {
      octets.fill(value, 4 * to, 4 * (to + count));
    },
    copy: (to, from, count) => {
      words.copyWithin(to, from, from + count);
    },
  };
}
