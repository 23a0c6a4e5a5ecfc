/**
 * Programs by reference, for whoever runs on another thread: by name if they ship with faultline, else by
 * the URL of a module that exports `program`.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import type { ExploreProgram } from './program.js';
import { programNamed } from './programs/registry.js';

export type ProgramRef = { readonly name: string } | { readonly url: string };

/** The program. @throws FaultlineError if there is none */
export async function findProgram(ref: ProgramRef): Promise<ExploreProgram> {
  if ('url' in ref) {
    const module = (await import(ref.url)) as { readonly program?: ExploreProgram };
    if (module.program === undefined) throw noProgram(`${ref.url} exports no program`);
    return module.program;
  }
  const found = programNamed(ref.name);
  if (found === undefined)
    throw noProgram(`there is no program ${ref.name}; --list shows those there are`);
  return found;
}

function noProgram(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_PROGRAM', message);
}
