/**
 * The strategies by name.
 *
 * @module
 */
import { FaultlineError } from '../../base/bug.js';
import { STRATEGIES, type StrategyName } from '../report.js';
import { BoundedSearch } from './bounded.js';
import { FullSearch } from './dfs.js';
import { PartialOrderReduction } from './dpor.js';
import { Pct } from './pct.js';
import { PartialOrderSampling } from './pos.js';
import { RandomWalk } from './random.js';
import type { Strategy, StrategyOptions } from './strategy.js';

const MAKERS: Readonly<Record<StrategyName, new (options: StrategyOptions) => Strategy>> = {
  random: RandomWalk,
  pct: Pct,
  pos: PartialOrderSampling,
  bounded: BoundedSearch,
  dpor: PartialOrderReduction,
  dfs: FullSearch,
};

/** @throws FaultlineError if there is none of that name */
export function makeStrategy(name: string, options: StrategyOptions): Strategy {
  if (!Object.hasOwn(MAKERS, name)) {
    throw new FaultlineError(
      'FAULTLINE_BAD_STRATEGY',
      `there is no strategy ${name}: it is one of ${STRATEGIES.join(', ')}`,
    );
  }
  return new MAKERS[name as StrategyName](options);
}
