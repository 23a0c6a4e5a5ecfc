/**
 * What scripts and tests that have an engine in their own thread use of this layer.
 *
 * @module
 */
export * as control from './control.js';
export { type ExplainOptions, explain } from './explain/explain.js';
export { type Explanation } from './explain/explanation.js';
export { minimise, type Minimised } from './explain/minimise.js';
export { perfettoTrace } from './explain/perfetto.js';
export { renderExplanation } from './explain/render.js';
export {
  allOperations,
  type Failure,
  type Operations,
  programWith,
  type Subject,
  type SubjectFor,
} from './explain/subject.js';
export { exploreWithCrew } from './explore-crew.js';
export { explore } from './explorer.js';
export { Judge } from './judge.js';
export { findMutant, MUTANTS_TABLE } from './mutants.js';
export * as plan from './plan.js';
export { type Deviation, deviationsOf, type Plan, preemptionsOf, setPlan } from './plan.js';
export { type ExploreProgram } from './program.js';
export { PLANTED_BUGS } from './programs/planted.js';
export { programNamed, PROGRAMS } from './programs/registry.js';
export { RaceDetector } from './races.js';
export { checkOf, formatSchedule, parseSchedule, type Schedule } from './schedule.js';
export { makeStrategy, STRATEGY_NAMES } from './strategies/strategies.js';
export { VirtualEngine } from './virtual-engine.js';
export { VirtualModules } from './virtual-module.js';
export { VirtualPrograms } from './virtual-program.js';
