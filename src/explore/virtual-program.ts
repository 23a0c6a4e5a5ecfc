/**
 * Programs as the virtual engine runs them: out of the rewritten kernel, or rewritten when they are loaded.
 *
 * @module
 */
import { type Operations, programWith } from './explain/subject.js';
import type { ExploreProgram } from './program.js';
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

  private constructor(program: ExploreProgram, rewritten: ExploreProgram, kernel: VirtualKernel) {
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

  /** The program with only these operations of each task, by index (null: all), and an engine for it. */
  part(
    operations: Operations | null,
    mutant: number,
    control?: Int32Array,
  ): { readonly engine: VirtualEngine; readonly program: ExploreProgram } {
    const part = (whole: ExploreProgram): ExploreProgram =>
      operations === null ? whole : programWith(whole, operations);
    const program = part(this.program);
    const engine = new VirtualEngine(program, part(this.#rewritten), this.#kernel, mutant, control);
    return { program, engine };
  }
}
