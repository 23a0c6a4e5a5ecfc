export * as control from './control.js';
export { exploreWithCrew } from './explore-crew.js';
export { findMutant, MUTANTS_TABLE } from './mutants.js';
export * as plan from './plan.js';
export { setPlan } from './plan.js';
export { programNamed, PROGRAMS } from './programs/registry.js';
export { randomToy, toyProgram } from './programs/toy.js';
export { makeStrategy, STRATEGY_NAMES } from './strategies/strategies.js';
export { VirtualEngine } from './virtual-engine.js';
