export * as control from './control.js';
export { findMutant, MUTANTS_TABLE } from './mutants.js';
export { setPlan } from './plan.js';
export { findProgram, PROGRAMS } from './programs/registry.js';
export { VirtualEngine } from './virtual-engine.js';
