export * as control from './control.js';
export { exploreWithCrew } from './explore-crew.js';
export { PROGRAMS } from './programs/registry.js';
export { VirtualEngine } from './virtual-engine.js';
