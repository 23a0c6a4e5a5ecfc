/**
 * What the workers of an exploration are asked for by name: a built-in module of the host's.
 *
 * @module
 */
export * from './outside-controller.js';
export * from './replay.js';
export * from './run-job.js';
