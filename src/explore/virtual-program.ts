/**
 * Programs as the virtual engine runs them: out of the rewritten kernel, or rewritten when they are loaded.
 *
 * @module
 */
import { type Operations, programWith } from './explain/subject.js';
import { type ExploreProgram } from './program.js';
import { findProgram, type ProgramRef } from './program-ref.js';
import { VirtualEngine, type VirtualKernel } from './virtual-engine.js';
import { VirtualModules } from './virtual-module.js';

/** What the rewritten kernel's bundle exports. */
type VirtualBundle = VirtualKernel & {
  readonly findProgram: (ref: ProgramRef) => Promise<ExploreProgram>;
};

const loadKernel = (): Promise<VirtualBundle> =>
  import('faultline/virtual') as unknown as Promise<VirtualBundle>;

/** Makes virtual engines for a program, and for parts of it. */
export class VirtualPrograms {
  readonly program: ExploreProgram;
  readonly #rewritten: ExploreProgram;
  readonly #kernel: VirtualKernel;

  private constructor(
    program: ExploreProgram,
    rewritten: ExploreProgram,
    kernel: VirtualKernel,
  ) {
    this.program = program;
    this.#rewritten = rewritten;
    this.#kernel = kernel;
  }

  /** @throws FaultlineError if there is no such program, or it cannot be rewritten */
  static async load(ref: ProgramRef): Promise<VirtualPrograms> {
    const kernel = await loadKernel();
    const program = await findProgram(ref);
    const rewritten =
      'url' in ref
        ? ((await new VirtualModules(kernel as never).load(ref.url)) as { program: ExploreProgram })
            .program
        : await kernel.findProgram(ref);
    return new VirtualPrograms(program, rewritten, kernel);
  }

  /** An engine for the whole program. */
  engine(mutant: number, control?: Int32Array): VirtualEngine {
    return new VirtualEngine(this.program, this.#rewritten, this.#kernel, mutant, control);
  }

  /** The program with only these operations of each task, by index, and an engine for it. */
  part(
    operations: Operations,
    mutant: number,
  ): { readonly engine: VirtualEngine; readonly program: ExploreProgram } {
    const program = programWith(this.program, operations);
    const rewritten = programWith(this.#rewritten, operations);
    return { program, engine: new VirtualEngine(program, rewritten, this.#kernel, mutant) };
  }
}
