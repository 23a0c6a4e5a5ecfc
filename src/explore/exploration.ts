/**
 * What scripts and tests that have an engine in their own thread use of this layer.
 *
 * @module
 */
export * as control from './control.js';
export { exploreWithCrew } from './explore-crew.js';
export { explore } from './explorer.js';
export { Judge } from './judge.js';
export { findMutant, MUTANTS_TABLE } from './mutants.js';
export * as plan from './plan.js';
export { PLANTED_BUGS } from './programs/planted.js';
export { programNamed, PROGRAMS } from './programs/registry.js';
export { setPlan } from './plan.js';
export { RaceDetector } from './races.js';
export { makeStrategy, STRATEGY_NAMES } from './strategies/strategies.js';
export { VirtualEngine } from './virtual-engine.js';
export { VirtualPrograms } from './virtual-program.js';
