/**
 * The entry of the virtual engine's bundle: the public API and the programs, to be rewritten into generators
 * (explore/rewrite.ts). What the engine itself needs of it comes under a name of its own.
 *
 * @module
 */
export * from './index.js';
export { PLANTED_BUGS, SOUND_COUNTER } from './explore/programs/planted.js';
export { randomToy, toyProgram } from './explore/programs/toy.js';
export { Cpu as VirtualCpu } from './machine/cpu.js';
