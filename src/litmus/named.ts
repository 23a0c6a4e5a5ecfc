/**
 * Programs of a family by their names.
 *
 * @module
 */
import { bug } from '../base/bug.js';
import type { ExploreProgram } from '../explore/program.js';

/** Finds programs of the family. @throws KernelBug if there is none of that name */
export function named(programs: readonly ExploreProgram[]): (name: string) => ExploreProgram {
  return (name) => programs.find((program) => program.name === name) ?? bug(`no program ${name}`);
}
