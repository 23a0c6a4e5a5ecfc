/**
 * What an operation of target `mm` is, and what it is given.
 *
 * @module
 */
import type { Cpu } from '../../machine/cpu.js';
import { failEnd, failNth, NO_SITE } from '../../machine/fail.js';
import { NULL } from '../../memory/layout.js';
import { PHASE_SAFETY, type TortureMember } from '../target.js';
import type { Way } from './content.js';
import {
  ALL_PAGES,
  type Region,
  SHARED,
  STEADY,
  type Visit,
  VOLATILE,
  type World,
} from './world.js';

/** Where an operation takes place. */
export interface Stage {
  readonly world: World;
  readonly member: TortureMember;
  /** The address space it is in, with a use. */
  readonly at: Visit;
  /** To that, for a CPU. */
  readonly way: Way;
}

/** Something that is done to an address space. */
export interface Operation {
  readonly name: string;
  /** Does it; false if it could not be tried just now. Sleeps. */
  readonly run: (cpu: Cpu, stage: Stage) => boolean;
}

/** One call in so many may have an allocation fail, the n-th of the first so many. */
const FAIL_ONE_IN = 6;
const FAIL_NTH_MAX = 12;
/** Pages of a region that are used more often than others. */
const HOT_PAGES = 2;

export function stageOf(world: World, member: TortureMember, at: Visit): Stage {
  const { index, space, life, mm } = at;
  return { world, member, at, way: { world, member, index, space, life, mm, context: NULL } };
}

/** From here on an allocation of this CPU may fail, in the safety phase. */
export function armFailure(cpu: Cpu, member: TortureMember): void {
  if (member.phase() !== PHASE_SAFETY || member.random(FAIL_ONE_IN) !== 0) return;
  failNth(cpu, 1 + member.random(FAIL_NTH_MAX));
}

/** … and no more; true if one has. */
export function disarmFailure(cpu: Cpu): boolean {
  return failEnd(cpu) !== NO_SITE;
}

/** Some pages of a region: every other time the first, where many meet. */
export function someOf(member: TortureMember, region: Region, pagesMax: number): Region {
  const pages = 1 + member.random(Math.min(pagesMax, region.pages));
  if (member.random(2) === 0) return { first: region.first, pages };
  return { first: region.first + member.random(region.pages - pages + 1), pages };
}

/** A page of an address space: every other time one of the hot ones, those that someOf prefers. */
export function somePage(member: TortureMember): number {
  if (member.random(2) !== 0) return member.random(ALL_PAGES.pages);
  return oneOf(member, [STEADY, SHARED, VOLATILE]).first + member.random(HOT_PAGES);
}

/** One of several. */
export function oneOf<T>(member: TortureMember, choices: readonly T[]): T {
  return choices[member.random(choices.length)] as T;
}
