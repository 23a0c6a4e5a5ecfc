/**
 * Explorers for tests of the engines: they run on the worker of task 0.
 *
 * @module
 */
import { performance } from 'node:perf_hooks';

import { type Engine } from '../../src/explore/engine.js';
import { setPlan } from '../../src/explore/plan.js';
import { RULE_RANDOM } from '../../src/explore/control.js';

/** Schedules per second. */
export function measure(engine: Engine, args: unknown): number {
  const until = performance.now() + Number(args);
  const begun = performance.now();
  let schedules = 0;
  while (performance.now() < until) {
    for (let i = 0; i < 100; i++) {
      schedules++;
      setPlan(engine.control, { rule: RULE_RANDOM, random: schedules, stepLimit: 2000 });
      engine.run();
      engine.restore();
    }
  }
  return (schedules * 1000) / (performance.now() - begun);
}
