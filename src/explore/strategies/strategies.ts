/**
 * The strategies by name.
 *
 * @module
 */
import { FaultlineError } from '../../base/bug.js';
import { type StrategyName } from '../report.js';
import { BoundedSearch } from './bounded.js';
import { FullSearch } from './dfs.js';
import { PartialOrderReduction } from './dpor.js';
import { Pct } from './pct.js';
import { PartialOrderSampling } from './pos.js';
import { RandomWalk } from './random.js';
import { type Strategy, type StrategyOptions } from './strategy.js';

const STRATEGIES = {
  random: RandomWalk,
  pct: Pct,
  pos: PartialOrderSampling,
  bounded: BoundedSearch,
  dpor: PartialOrderReduction,
  dfs: FullSearch,
} as const satisfies Record<StrategyName, new (options: StrategyOptions) => Strategy>;

export const STRATEGY_NAMES = Object.keys(STRATEGIES) as readonly StrategyName[];

/** @throws FaultlineError if there is none of that name */
export function makeStrategy(name: string, options: StrategyOptions): Strategy {
  if (!Object.hasOwn(STRATEGIES, name)) {
    throw new FaultlineError(
      'FAULTLINE_BAD_STRATEGY',
      `there is no strategy ${name}: it is one of ${STRATEGY_NAMES.join(', ')}`,
    );
  }
  return new STRATEGIES[name as StrategyName](options);
}
