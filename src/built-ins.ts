/**
 * The modules that workers can be told to run, by name: those of the workloads, and of what lies behind them.
 *
 * @module
 */
import type { BuiltIns } from './host/modules.js';
import { BUILT_INS } from './workloads/built-ins.js';

export const ALL_BUILT_INS: BuiltIns = {
  ...BUILT_INS,
  'faultline:conform': () => import('./conform/member.js'),
  'faultline:torture': () => import('./torture/member.js'),
  'faultline:selftest': () => import('./torture/selftest/cases.js'),
};
