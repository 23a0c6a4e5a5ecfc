/**
 * What else of this layer programs use that have an engine in their own thread: it must come out of the
 * bundle that their engine is from.
 *
 * @module
 */
export * as control from './control.js';
export { explain } from './explain/explain.js';
export { minimise } from './explain/minimise.js';
export { perfettoTrace } from './explain/perfetto.js';
export { renderExplanation } from './explain/render.js';
export {
  allOperations,
  type Failure,
  programWith,
  type Subject,
  type SubjectFor,
} from './explain/subject.js';
export { findMutant } from './mutants.js';
export { type Deviation, deviationsOf, setPlan } from './plan.js';
export { type ExploreProgram } from './program.js';
export { programNamed } from './programs/registry.js';
export { checkOf, parseSchedule } from './schedule.js';
export { VirtualEngine } from './virtual-engine.js';
export { VirtualModules } from './virtual-module.js';
