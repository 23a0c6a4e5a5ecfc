/**
 * A plan as tables in shared memory: workers get it without copying and read it without allocating.
 *
 * Each operation is a row of `rows`, ROW_STRIDE doubles (two cache lines):
 *
 *   ROW_OPCODE       what it is: OPCODES
 *   ROW_LINE         where in the log
 *   ROW_TIME_MS      when in the log; milliseconds since it began
 *   ROW_TASK         whose operation it is
 *   ROW_NUMBER       its number in the task, from 0
 *   ROW_MM           the address space it acts on, or -1
 *   ROW_ARGS         its arguments, in the order of ARGUMENTS (operations.ts); the rest is 0
 *   ROW_EXPECTED     the value it must return, or a negative error number
 *   ROW_FIRST_WAIT   what it waits for: the first entry of `waits`, in pairs
 *   ROW_WAIT_COUNT   and the number of pairs
 *   ROW_IS_OUTSIDE   1 if it failed for a reason outside the log, else 0
 *
 * The rows of one slot stand together, in the order in which the slot performs them. The other tables:
 *
 *   slots            for each slot: its first row, the number of its rows
 *   waits            pairs: a task, how many of its operations must have completed
 *   images           pairs: start and end of a range that an exec maps by itself
 *   mmImages         for each mm: its first pair in `images`, the number of pairs
 *   fileSizes        for each file: its size in bytes
 *   tids             for each task: its id in the log
 *
 * @module
 */
import { sharedDoubles, sharedIntegers } from '../../memory/shared-tables.js';
import { ARGUMENTS, ARGUMENTS_MAX, type Operation, type OperationKind } from './operations.js';
import type { StracePlan } from './plan.js';

export const ROW_OPCODE = 0;
export const ROW_LINE = 1;
export const ROW_TIME_MS = 2;
export const ROW_TASK = 3;
export const ROW_NUMBER = 4;
export const ROW_MM = 5;
export const ROW_ARGS = 6;
export const ROW_EXPECTED = ROW_ARGS + ARGUMENTS_MAX;
export const ROW_FIRST_WAIT = ROW_EXPECTED + 1;
export const ROW_WAIT_COUNT = ROW_EXPECTED + 2;
export const ROW_IS_OUTSIDE = ROW_EXPECTED + 3;
export const ROW_STRIDE = 16;

/** What stands in ROW_OPCODE. */
export const OPCODES = {
  mmap: 0,
  munmap: 1,
  mprotect: 2,
  mremap: 3,
  madvise: 4,
  brk: 5,
  mlock: 6,
  mlock2: 7,
  munlock: 8,
  mlockall: 9,
  munlockall: 10,
  msync: 11,
  mincore: 12,
  fork: 13,
  thread: 14,
  vfork: 15,
  exec: 16,
  exit: 17,
} as const satisfies Record<OperationKind, number>;

export interface EncodedPlan {
  readonly rows: Float64Array<SharedArrayBuffer>;
  readonly slots: Int32Array<SharedArrayBuffer>;
  readonly waits: Int32Array<SharedArrayBuffer>;
  readonly images: Float64Array<SharedArrayBuffer>;
  readonly mmImages: Int32Array<SharedArrayBuffer>;
  readonly fileSizes: Float64Array<SharedArrayBuffer>;
  readonly tids: Int32Array<SharedArrayBuffer>;
}

export function encodePlan(plan: StracePlan): EncodedPlan {
  const encoded = {
    rows: sharedDoubles(plan.totals.operations * ROW_STRIDE),
    slots: sharedIntegers(plan.slots.length * 2),
    waits: sharedIntegers(plan.totals.waits * 2),
    ...encodeImages(plan),
    fileSizes: sharedDoubles(plan.files.length),
    tids: sharedIntegers(plan.tasks.length),
  };
  plan.files.forEach(({ sizeBytes }, file) => {
    encoded.fileSizes[file] = sizeBytes;
  });
  plan.tasks.forEach(({ tid }, task) => {
    encoded.tids[task] = tid;
  });
  let row = 0;
  let wait = 0;
  plan.slots.forEach((tasks, slot) => {
    const firstRow = row;
    for (const task of tasks) {
      for (const operation of plan.tasks[task]?.operations ?? []) {
        wait = encodeOperation(encoded, row++, operation, wait);
      }
    }
    encoded.slots.set([firstRow, row - firstRow], slot * 2);
  });
  return encoded;
}

/** Writes one row and its waits; returns where the next waits go. */
function encodeOperation(
  encoded: EncodedPlan,
  row: number,
  operation: Operation,
  firstWait: number,
): number {
  const { action, waits } = operation;
  const at = row * ROW_STRIDE;
  encoded.rows[at + ROW_OPCODE] = OPCODES[action.kind];
  encoded.rows[at + ROW_LINE] = operation.line;
  encoded.rows[at + ROW_TIME_MS] = operation.timeMs;
  encoded.rows[at + ROW_TASK] = operation.task;
  encoded.rows[at + ROW_NUMBER] = operation.number;
  encoded.rows[at + ROW_MM] = operation.mm;
  encoded.rows.set(argumentsOf(operation), at + ROW_ARGS);
  encoded.rows[at + ROW_EXPECTED] = operation.expected;
  encoded.rows[at + ROW_FIRST_WAIT] = firstWait;
  encoded.rows[at + ROW_WAIT_COUNT] = waits.length;
  encoded.rows[at + ROW_IS_OUTSIDE] = operation.unexplained?.isOutside === true ? 1 : 0;
  waits.forEach(({ task, count }, index) => {
    encoded.waits.set([task, count], (firstWait + index) * 2);
  });
  return firstWait + waits.length;
}

/** The arguments of an operation, in the order of ARGUMENTS. */
export function argumentsOf({ action }: Pick<Operation, 'action'>): number[] {
  const byName: Readonly<Record<string, number | string>> = action;
  return ARGUMENTS[action.kind].map((name) => Number(byName[name]));
}

function encodeImages(plan: StracePlan): Pick<EncodedPlan, 'images' | 'mmImages'> {
  const ranges = plan.mms.flatMap(({ image }) => image);
  const images = sharedDoubles(ranges.length * 2);
  ranges.forEach(({ start, end }, index) => {
    images.set([start, end], index * 2);
  });
  const mmImages = sharedIntegers(plan.mms.length * 2);
  let first = 0;
  plan.mms.forEach(({ image }, mm) => {
    mmImages.set([first, image.length], mm * 2);
    first += image.length;
  });
  return { images, mmImages };
}

/** One field of a row: `field(plan, row, ROW_ARGS + 1)`. */
export function field(plan: EncodedPlan, row: number, index: number): number {
  return plan.rows[row * ROW_STRIDE + index] ?? NaN;
}
