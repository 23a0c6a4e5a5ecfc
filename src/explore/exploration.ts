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
  type Subject,
  type SubjectFor,
} from './explain/subject.js';
export { type Deviation, deviationsOf, type Plan, preemptionsOf, setPlan } from './plan.js';
export { type ExploreProgram } from './program.js';
export { exploreWithCrew } from './explore-crew.js';
export { PROGRAMS } from './programs/registry.js';
export { checkOf, formatSchedule, parseSchedule, type Schedule } from './schedule.js';
export { VirtualEngine } from './virtual-engine.js';
export { VirtualModules } from './virtual-module.js';
export { withOperations } from './virtual-program.js';
