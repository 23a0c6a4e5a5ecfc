/**
 * The operations of `#memory`, each counted on the CPU that performs it.
 *
 * The checked and the turnstile build stand on these; what they add comes between the counting and the
 * access.
 *
 * @module
 */
import type { AddressField, Field, Ptr, Va } from './layout.js';
import * as parallel from './memory.js';
import type { MemoryPort } from './port.js';

export function read<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  return parallel.read(cpu, p, field);
}

export function write<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  parallel.write(cpu, p, field, value);
}

export function readAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
): Va {
  cpu.operations++;
  return parallel.readAddress(cpu, p, field);
}

export function writeAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
  value: Va,
): void {
  cpu.operations++;
  parallel.writeAddress(cpu, p, field, value);
}

export function readOwn<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  return parallel.readOwn(cpu, p, field);
}

export function writeOwn<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  parallel.writeOwn(cpu, p, field, value);
}

export function readOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  return parallel.readOnce(cpu, p, field);
}

export function writeOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  parallel.writeOnce(cpu, p, field, value);
}

export function loadAcquire<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  return parallel.loadAcquire(cpu, p, field);
}

export function storeRelease<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  parallel.storeRelease(cpu, p, field, value);
}

export function storeThenLoad<S extends string, T extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  value: number,
  other: Ptr<T>,
  otherField: Field<NoInfer<T>, V>,
): V {
  cpu.operations++;
  return parallel.storeThenLoad(cpu, p, field, value, other, otherField);
}

export function writeRelease<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  parallel.writeRelease(cpu, p, field, value);
}

export function fetchAdd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  value: number,
): number {
  cpu.operations++;
  return parallel.fetchAdd(cpu, p, field, value);
}

export function fetchOr<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  cpu.operations++;
  return parallel.fetchOr(cpu, p, field, bits);
}

export function fetchAnd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  cpu.operations++;
  return parallel.fetchAnd(cpu, p, field, bits);
}

export function exchange<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): V {
  cpu.operations++;
  return parallel.exchange(cpu, p, field, value);
}

export function cmpxchg<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  expected: NoInfer<V>,
  replacement: NoInfer<V>,
): V {
  cpu.operations++;
  return parallel.cmpxchg(cpu, p, field, expected, replacement);
}

export function park<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): boolean {
  cpu.operations++;
  return parallel.park(cpu, p, field, expected, timeoutMs);
}

export function unpark<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  count: number,
): number {
  cpu.operations++;
  return parallel.unpark(cpu, p, field, count);
}

export function readOnceLinks(
  cpu: MemoryPort,
  table: number,
  first: number,
  second: number,
  third: number,
): number {
  cpu.operations++;
  return parallel.readOnceLinks(cpu, table, first, second, third);
}

export function readOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  parallel.readOnceCells(cpu, to, from, count);
}

export function readOnceCellsWhile(
  cpu: MemoryPort,
  to: number,
  from: number,
  count: number,
  test: number,
  match: number,
  keep: number,
): number {
  cpu.operations++;
  return parallel.readOnceCellsWhile(cpu, to, from, count, test, match, keep);
}

export function changeCells(
  cpu: MemoryPort,
  at: number,
  count: number,
  test: number,
  match: number,
  settled: number,
  clear: number,
  set: number,
): void {
  cpu.operations++;
  parallel.changeCells(cpu, at, count, test, match, settled, clear, set);
}

export function writeOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  parallel.writeOnceCells(cpu, to, from, count);
}

export function takeCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  parallel.takeCells(cpu, to, from, count);
}

export function fillWords(cpu: MemoryPort, to: number, value: number, count: number): void {
  cpu.operations++;
  parallel.fillWords(cpu, to, value, count);
}

export function copyWords(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  parallel.copyWords(cpu, to, from, count);
}

export function relax(cpu: MemoryPort): void {
  cpu.operations++;
  parallel.relax(cpu);
}

export function clockMs(cpu: MemoryPort): number {
  cpu.operations++;
  return parallel.clockMs(cpu);
}

export function parkAsync<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): Promise<boolean> {
  cpu.operations++;
  return parallel.parkAsync(cpu, p, field, expected, timeoutMs);
}

export function clearCells(cpu: MemoryPort, to: number, count: number): void {
  cpu.operations++;
  parallel.clearCells(cpu, to, count);
}

export { awaitFree, noteAlloc, noteFree, spinLimit } from './memory.js';
