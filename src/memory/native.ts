/**
 * The machine's atomic operations, in two forms: a tiny WebAssembly module over the shared memory, and
 * JavaScript's `Atomics`.
 *
 * V8 compiles `Atomics.load` to a call of a builtin, but it inlines the wrapper of a WebAssembly
 * export, so a load through the module costs a third. The module is written out here instruction by
 * instruction: it is small, needs no tool to build, and every line can be checked against the
 * WebAssembly threads specification.
 *
 * Besides the word operations there are some on runs of memory, so that page tables can be read and
 * written at the speed of a copy. A *cell* is 64 bits, two words at an even index: the size of a page
 * table entry.
 *
 * Ordering   `load`, `store` and the read-modify-writes are sequentially consistent. `storeRelaxed` and the
 *            runs of cells are plain WebAssembly accesses, except where a cell is exchanged: each is made
 *            once and whole, and orders nothing. (The `Atomics` form orders more than it must.)
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';

/**
 * Everything the door to shared memory is made of. All indices and counts are in words unless named; runs of
 * cells have one cell at least.
 */
export interface NativeOps {
  readonly load: (index: number) => number;
  readonly store: (index: number, value: number) => void;
  /** Stores, then loads from `other`: one call for both. */
  readonly storeLoad: (index: number, value: number, other: number) => number;
  readonly storeRelaxed: (index: number, value: number) => void;
  readonly add: (index: number, value: number) => number;
  readonly or: (index: number, value: number) => number;
  readonly and: (index: number, value: number) => number;
  readonly exchange: (index: number, value: number) => number;
  /** Returns what was there; it was replaced iff that equals `expected`. */
  readonly compareExchange: (index: number, expected: number, replacement: number) => number;
  /**
   * Follows three links through tables of cells: entry `first` of `table`, entry `second` of the table
   * that leads to, entry `third` of the next; the table it ends at, or 0 where a link is 0. A link is the
   * index of a table; its low 10 bits are not part of it.
   */
  readonly follow: (table: number, first: number, second: number, third: number) => number;
  /** Copies `count` cells, each read and written whole. */
  readonly copyCells: (to: number, from: number, count: number) => void;
  /**
   * Copies cells as long as their first word has, of the bits of `test`, those of `match`; `count` at
   * most. Of the first words only the bits of `keep` are copied. Returns how many cells it were.
   */
  readonly copyCellsWhile: (
    to: number,
    from: number,
    count: number,
    test: number,
    match: number,
    keep: number,
  ) => number;
  /**
   * Clears and sets bits in the first word of each of `count` cells in which it has, of the bits of
   * `test`, those of `match`. A word with all bits of `settled` is only stored; any other is exchanged
   * for what was seen.
   */
  readonly changeCells: (
    at: number,
    count: number,
    test: number,
    match: number,
    settled: number,
    clear: number,
    set: number,
  ) => void;
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
const I64 = 0x7e;
const END = 0x0b;
const BLOCK = 0x02;
const AND = 0x71;
const EQZ = 0x45;
/** A link without its low 10 bits; -1024 as WebAssembly encodes it. */
const LINK_MASK = [0x41, 0x80, 0x78];
const NE = 0x47;
const EQ = 0x46;
const OR = 0x72;
const XOR = 0x73;
const SUB = 0x6b;
const SHR_U = 0x76;
const LOOP = 0x03;
const IF = 0x04;
const ELSE = 0x05;
const NO_RESULT = 0x40;
const BR_IF_0 = [0x0d, 0];
const BR_IF_1 = [0x0d, 1];
const BR_IF_2 = [0x0d, 2];
const SHL = 0x74;
const ADD = 0x6a;
const LT_U = 0x49;
const ATOMIC = 0xfe;
const ALIGN_4 = [2, 0];
const ALIGN_8 = [3, 0];
const I32_ALL_ONES = [0x41, 0x7f];
const I32_WRAP = 0xa7;
const I32_LOAD = [0x28, ...ALIGN_4];
const I32_STORE = [0x36, ...ALIGN_4];
const I64_LOAD = [0x29, ...ALIGN_8];
const I64_STORE = [0x37, ...ALIGN_8];
const I64_ZERO = [0x42, 0];
const I64_HIGH_WORD = [0x42, 0x80, 0x80, 0x80, 0x80, 0x70]; // the upper 32 bits
const I64_EXTEND_U = 0xad;
const I64_AND = 0x83;
const I64_OR = 0x84;
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

/** local 0 := the table that entry `local` of the table in local 0 links to; leaves the block if it is 0. */
const followLink = (local: number): number[] => [
  ...[...get(0), ...constant(2), SHL],
  ...[...get(local), ...constant(3), SHL, ADD],
  ...[...atomic(0x10), ...LINK_MASK, AND, ...tee(0)],
  ...[EQZ, ...BR_IF_0],
];

interface WasmFunction {
  readonly parameters: number;
  readonly results: 0 | 1;
  /** Types of the locals after the parameters. */
  readonly locals?: readonly number[];
  readonly body: readonly number[];
}

/** Locals: 0 = to, 1 = from, 2 = count, 3 = test, 4 = match, 5 = keep, 6 = `from` at first, 7 = cell, 8 = mask. */
const COPY_CELLS_WHILE = [
  ...[...bytes(0), ...set(0)],
  ...[...bytes(1), ...tee(1), ...set(6)],
  ...[...get(2), ...constant(3), SHL, ...get(1), ADD, ...set(2)], // the end
  ...[...get(5), I64_EXTEND_U, ...I64_HIGH_WORD, I64_OR, ...set(8)],
  ...[BLOCK, NO_RESULT, LOOP, NO_RESULT],
  ...[...get(1), ...I64_LOAD, ...tee(7), I32_WRAP],
  ...[...get(3), AND, ...get(4), NE, ...BR_IF_1],
  ...[...get(0), ...get(7), ...get(8), I64_AND, ...I64_STORE],
  ...[...get(0), ...constant(8), ADD, ...set(0)],
  ...[...get(1), ...constant(8), ADD, ...tee(1), ...get(2), LT_U, ...BR_IF_0],
  ...[END, END],
  ...[...get(1), ...get(6), SUB, ...constant(3), SHR_U],
];

/** Locals: 0 = at, 1 = count, 2 = test, 3 = match, 4 = settled, 5 = clear, 6 = set, 7 = word, 8 = its successor. */
const CHANGE_CELLS = [
  ...[...bytes(0), ...set(0)],
  ...[...get(1), ...constant(3), SHL, ...get(0), ADD, ...set(1)], // the end
  ...[...get(5), ...I32_ALL_ONES, XOR, ...set(5)],
  ...[LOOP, NO_RESULT],
  ...[...get(0), ...I32_LOAD, ...tee(7), ...get(2), AND, ...get(3), EQ, IF, NO_RESULT],
  ...[...get(7), ...get(5), AND, ...get(6), OR, ...set(8)],
  ...[...get(7), ...get(4), AND, ...get(4), EQ, IF, NO_RESULT],
  ...[...get(0), ...get(8), ...I32_STORE],
  ELSE,
  ...[...get(0), ...get(7), ...get(8), ...atomic(0x48), ...get(7), NE, ...BR_IF_2], // look again
  ...[END, END],
  ...[...get(0), ...constant(8), ADD, ...tee(0), ...get(1), LT_U, ...BR_IF_0],
  END,
];

const FUNCTIONS: Readonly<Record<keyof NativeOps, WasmFunction>> = {
  load: { parameters: 1, results: 1, body: [...bytes(0), ...atomic(0x10)] },
  store: { parameters: 2, results: 0, body: [...bytes(0), ...get(1), ...atomic(0x17)] },
  storeLoad: {
    parameters: 3,
    results: 1,
    body: [...bytes(0), ...get(1), ...atomic(0x17), ...bytes(2), ...atomic(0x10)],
  },
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
  follow: {
    parameters: 4,
    results: 1,
    body: [BLOCK, NO_RESULT, ...followLink(1), ...followLink(2), ...followLink(3), END, ...get(0)],
  },
  copyCells: {
    parameters: 3,
    results: 0,
    body: forEachCell([...get(0), ...get(1), ...I64_LOAD, ...I64_STORE]),
  },
  copyCellsWhile: { parameters: 6, results: 1, locals: [I32, I64, I64], body: COPY_CELLS_WHILE },
  changeCells: { parameters: 7, results: 0, locals: [I32, I32], body: CHANGE_CELLS },
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

/** Each local as a group of its own. */
const locals = (f: WasmFunction): number[] => vector((f.locals ?? []).map((type) => [1, type]));

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
    ...section(10, vector(functions.map(([, f]) => sized([...locals(f), ...f.body, END])))),
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
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch {
    const mebibytes = Math.ceil((words * 4) / 2 ** 20);
    throw new FaultlineError(
      'FAULTLINE_NO_MEMORY',
      `the machine needs ${mebibytes} MiB of memory, and the host does not give them`,
    );
  }
}

/** The WebAssembly form of the operations over `memory`. */
export function wasmOps(memory: SharedMemory): NativeOps {
  const module = new WebAssembly.Module(moduleBytes());
  const instance = new WebAssembly.Instance(module, { faultline: { memory } });
  return instance.exports as NativeOps;
}

const LINK_BITS = ~1023;
const HIGH_WORD = 0xffffffff00000000n;

/** The `Atomics` form of the operations over the same memory. */
export function jsOps(memory: SharedMemory): NativeOps {
  const words = new Int32Array(memory.buffer);
  const octets = new Uint8Array(memory.buffer);
  const cells = new BigInt64Array(memory.buffer); // 64 bits at once: a cell must not be torn
  const link = (table: number, index: number): number =>
    Atomics.load(words, table + 2 * index) & LINK_BITS;
  const copyCells = (to: number, from: number, count: number): void => {
    for (let i = 0; i < count; i++) {
      Atomics.store(cells, (to >> 1) + i, Atomics.load(cells, (from >> 1) + i));
    }
  };
  return {
    load: (index) => Atomics.load(words, index),
    store: (index, value) => {
      Atomics.store(words, index, value);
    },
    storeLoad: (index, value, other) => {
      Atomics.store(words, index, value);
      return Atomics.load(words, other);
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
    follow: (table, first, second, third) => {
      const one = link(table, first);
      const two = one === 0 ? 0 : link(one, second);
      return two === 0 ? 0 : link(two, third);
    },
    copyCells,
    copyCellsWhile: (to, from, count, test, match, keep) => {
      let done = 0;
      for (; done < count; done++) {
        const cell = Atomics.load(cells, (from >> 1) + done);
        if ((Number(BigInt.asIntN(32, cell)) & test) !== match) break;
        Atomics.store(cells, (to >> 1) + done, cell & (HIGH_WORD | BigInt(keep >>> 0)));
      }
      return done;
    },
    changeCells: (at, count, test, match, _settled, clear, set) => {
      for (let i = at; i < at + 2 * count; i += 2) {
        let seen = Atomics.load(words, i);
        while ((seen & test) === match) {
          const before = Atomics.compareExchange(words, i, seen, (seen & ~clear) | set);
          if (before === seen) break;
          seen = before;
        }
      }
    },
    takeCells: (to, from, count) => {
      for (let i = 0; i < count; i++) {
        Atomics.store(cells, (to >> 1) + i, Atomics.exchange(cells, (from >> 1) + i, 0n));
      }
    },
    clearCells: (to, count) => {
      for (let i = 0; i < count; i++) Atomics.store(cells, (to >> 1) + i, 0n);
    },
    fill: (to, value, count) => {
      octets.fill(value, 4 * to, 4 * (to + count));
    },
    copy: (to, from, count) => {
      words.copyWithin(to, from, from + count);
    },
  };
}
