/**
 * Reports of lockdep, in the kernel's form: what was done, what had been done before, and how the two of them
 * can meet.
 *
 * A report begins with a line that is the same whoever comes second, so that it is made once: `possible circular
 * locking dependency: a -> b -> a`. Then who did what, with the stack of it and of what was learned before; then
 * the table of two CPUs.
 *
 * @module
 */
import { hashName } from '../../base/hash.js';
import { framesAbove } from '../../base/own-stack.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClassName } from '../../machine/lock-class.js';
import { isLockReported, keepLockReport } from '../../machine/lock-report.js';
import { subclassOf } from '../lock-how.js';
import {
  classNameAt,
  edgeTrace,
  KEEPS_TRACES,
  type LockGraph,
  traceText,
  usageTrace,
} from './graph.js';
import { classAt, edgeTo, pathTo } from './search.js';
import { heldClass, heldHow, isShared, type LockdepTask } from './task.js';
import { usageName } from './usage-name.js';

const STACK_FRAMES_MAX = 8;
/** Frames of the hooks, between what is looked at and who asked for it. */
const OWN_FRAMES_MAX = 4;
const OWN_FRAME =
  /\bat (?:Object\.)?(?:lock(?:Acquire|AcquireNest|TryAcquired|Sync|MapAcquire|MapAcquireRead)|mightLock|lockdep\w+|map(?:Acquire|Touch|Sync)|notifierMap(?:Acquire|Touch)|fsReclaimAcquire|onAlloc|mightAlloc|mightAllocChecked)\b/;
const TABLE_HEAD = ['       CPU0                    CPU1', '       ----                    ----'];
const SECOND = ' '.repeat(31);
const DEADLOCK = [' *** DEADLOCK ***'];

/** The stack of whoever calls `above`, innermost first: `at mutexLock (…)`. */
export function stackAbove(above: (...args: never) => unknown): string {
  const frames = framesAbove(above, STACK_FRAMES_MAX + OWN_FRAMES_MAX);
  const first = frames.findIndex((line) => !OWN_FRAME.test(line));
  return frames.slice(first, first + STACK_FRAMES_MAX).join('\n');
}

/** Keeps a report, unless the same has been made; `first` says what it is about. */
export function report(
  cpu: Cpu,
  task: LockdepTask,
  first: string,
  body: () => readonly string[],
): void {
  const signature = hashName(first);
  if (isLockReported(cpu, signature)) return;
  keepLockReport(cpu, signature, [first, ...body(), ...heldLines(cpu, task)].join('\n'));
}

/** What an entry of the stack is called, prepared or held. */
export function heldName(task: LockdepTask, entry: number): string {
  const name = lockClassName(heldClass(task, entry));
  const subclass = subclassOf(heldHow(task, entry));
  return subclass === 0 ? name : `${name}/${subclass}`;
}

/** What the CPU holds, for the end of a report. */
export function heldLines(cpu: Cpu, task: LockdepTask): string[] {
  if (task.depth === 0) return [`cpu ${cpu.id} holds no locks`];
  const names = Array.from({ length: task.depth }, (_, entry) => {
    const read = isShared(heldHow(task, entry)) ? ' (read)' : '';
    return ` #${entry}: ${heldName(task, entry)}${read}`;
  });
  return [`cpu ${cpu.id} holds:`, ...names];
}

function stackLines(text: string): string[] {
  return text === '' ? [] : text.split('\n');
}

/** Where the CPU is now. */
export function ownStack(above: (...args: never) => unknown): string[] {
  return KEEPS_TRACES ? stackLines(stackAbove(above)) : [];
}

/** Where a class came to a usage. */
export function usageStack(cpu: Cpu, graph: LockGraph, index: number, usage: number): string[] {
  return stackLines(traceText(cpu, graph, usageTrace(cpu, graph, index, usage)));
}

/** The same lock class twice on one CPU. */
export function reportRecursion(
  cpu: Cpu,
  task: LockdepTask,
  entry: number,
  above: (...args: never) => unknown,
): void {
  const held = heldName(task, entry);
  const wanted = heldName(task, task.depth);
  report(cpu, task, `possible recursive locking: ${wanted}`, () => [
    `cpu ${cpu.id} takes ${wanted}:`,
    ...ownStack(above),
    `and holds ${held}`,
    ' Possible unsafe locking scenario:',
    '       CPU0',
    '       ----',
    `  lock(${held});`,
    `  lock(${wanted});`,
    ...DEADLOCK,
    ' (if that order is meant, it wants a subclass or a lock around all of them)',
  ]);
}

/** A cycle: the search found a path from what is wanted to what is held (`found`). */
export function reportCycle(
  cpu: Cpu,
  task: LockdepTask,
  entry: number,
  found: number,
  above: (...args: never) => unknown,
): void {
  const { graph, search } = task;
  const path = pathTo(search, found);
  const names = path.map((node) => classNameAt(cpu, graph, classAt(search, node)));
  const held = heldName(task, entry);
  const wanted = heldName(task, task.depth);
  report(cpu, task, `possible circular locking dependency: ${circle(names)}`, () => [
    `cpu ${cpu.id} takes ${wanted} while it holds ${held}:`,
    ...ownStack(above),
    'and an order was seen before that leads the other way:',
    ...path
      .slice(1)
      .flatMap((node, i) => [
        ` ${names[i + 1] ?? ''} was taken under ${names[i] ?? ''}`,
        ...stackLines(traceText(cpu, graph, edgeTrace(cpu, graph, edgeTo(search, node)))),
      ]),
    ...(names.length > 2 ? [`Chain exists of: ${names.join(' --> ')}`] : []),
    ' Possible unsafe locking scenario:',
    ...TABLE_HEAD,
    `  ${callOf(task, entry)}(${held});`,
    `${SECOND}lock(${names.at(-2) ?? wanted});`,
    `${SECOND}lock(${held});`,
    `  ${callOf(task, task.depth)}(${wanted});`,
    ...DEADLOCK,
  ]);
}

function callOf(task: LockdepTask, entry: number): string {
  return isShared(heldHow(task, entry)) ? 'rlock' : 'lock';
}

/** The names of a cycle, from the first in the alphabet round to itself. */
function circle(names: readonly string[]): string {
  const first = [...names].sort()[0] ?? '';
  const at = names.indexOf(first);
  return [...names.slice(at), ...names.slice(0, at), first].join(' -> ');
}

/** A lock class taken in an interrupt, and where the same interrupt may come. */
export function reportInconsistent(
  cpu: Cpu,
  task: LockdepTask,
  entry: number,
  index: number,
  usages: readonly [known: number, fresh: number],
  above: (...args: never) => unknown,
): void {
  const name = heldName(task, entry);
  const [known, fresh] = usages;
  const both = [known, fresh].sort((a, b) => a - b).map(usageName);
  report(cpu, task, `inconsistent lock state: ${name} {${both.join('} and {')}}`, () => [
    `cpu ${cpu.id} takes ${name} as {${usageName(fresh)}}:`,
    ...ownStack(above),
    `and it was {${usageName(known)}} before:`,
    ...usageStack(cpu, task.graph, index, known),
    ' Possible unsafe locking scenario:',
    '       CPU0',
    '       ----',
    `  lock(${name});`,
    '  <Interrupt>',
    `    lock(${name});`,
    ...DEADLOCK,
  ]);
}

/** An order by which who is interrupted may hold what the interrupt waits for. */
export interface IrqOrder {
  /** First line: what kind of finding it is. */
  readonly title: string;
  /** Class taken in the interrupt, and its usage. */
  readonly safe: number;
  readonly safeUsage: number;
  /** Class taken where the interrupt may come, and its usage. */
  readonly unsafe: number;
  readonly unsafeUsage: number;
  /** Classes from the safe to the unsafe one, as far as they are known. */
  readonly between: readonly string[];
}

/** A lock that an interrupt takes leads to one that is held where that interrupt may come. */
export function reportIrqOrder(
  cpu: Cpu,
  task: LockdepTask,
  order: IrqOrder,
  above: (...args: never) => unknown,
): void {
  const { graph } = task;
  const { safeUsage, unsafeUsage } = order;
  const safe = classNameAt(cpu, graph, order.safe);
  const unsafe = classNameAt(cpu, graph, order.unsafe);
  const first = `${order.title}: ${safe} {${usageName(safeUsage)}} -> ${unsafe} {${usageName(unsafeUsage)}}`;
  report(cpu, task, first, () => [
    `cpu ${cpu.id}:`,
    ...ownStack(above),
    `Chain exists of: ${order.between.join(' --> ')}`,
    ` ${safe} became {${usageName(safeUsage)}}:`,
    ...usageStack(cpu, graph, order.safe, safeUsage),
    ` ${unsafe} became {${usageName(unsafeUsage)}}:`,
    ...usageStack(cpu, graph, order.unsafe, unsafeUsage),
    ' Possible interrupt unsafe locking scenario:',
    ...TABLE_HEAD,
    `  lock(${unsafe});`,
    `${SECOND}local_irq_disable();`,
    `${SECOND}lock(${safe});`,
    `${SECOND}lock(${order.between[1] ?? unsafe});`,
    '  <Interrupt>',
    `    lock(${safe});`,
    ...DEADLOCK,
  ]);
}

/** Anything that needs no table. */
export function reportPlain(
  cpu: Cpu,
  task: LockdepTask,
  first: string,
  above: (...args: never) => unknown,
): void {
  report(cpu, task, first, () => [`cpu ${cpu.id}:`, ...ownStack(above)]);
}
