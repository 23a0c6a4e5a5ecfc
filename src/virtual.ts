/**
 * The entry of the virtual engine's bundle: the public API and the programs, to be rewritten into generators
 * (explore/rewrite.ts). What the engine itself needs of it comes under a name of its own.
 *
 * @module
 */
export * from './index.js';
export { Cpu as VirtualCpu } from './machine/cpu.js';
export { programNamed } from './explore/programs/registry.js';
