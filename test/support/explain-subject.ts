/**
 * Toy programs on the virtual engine, with a judge of the simplest kind. For processes of the turnstile build.
 *
 * @module
 */
import { exploration, FaultlineError, KernelBug } from 'faultline';

const { control: words, programWith, setPlan, VirtualEngine } = exploration;

type ExploreProgram = exploration.ExploreProgram;
type Exports = Readonly<Record<string, unknown>>;

/** The rewritten kernel. */
const kernel = (await import('faultline/virtual')) as unknown as Exports &
  ConstructorParameters<typeof VirtualEngine>[2];

/** A module of programs, rewritten over the rewritten kernel. */
export async function rewritten(url: string): Promise<Record<string, ExploreProgram>> {
  const modules = new exploration.VirtualModules(kernel);
  return (await modules.load(url)) as Record<string, ExploreProgram>;
}

/** A program of the kernel's own, and its rewritten copy. */
export async function ownProgram(name: string): Promise<[ExploreProgram, ExploreProgram]> {
  const find = kernel['findProgram'] as (ref: { name: string }) => Promise<ExploreProgram>;
  const program = exploration.programNamed(name);
  if (program === undefined) throw new Error(`no program is called ${name}`);
  return [program, await find({ name })];
}

/** Makes subjects of a program and its rewritten copy. */
export function subjectsOf(
  program: ExploreProgram,
  copy: ExploreProgram,
  mutant = 0,
): exploration.SubjectFor {
  return (operations) => {
    const left = programWith(program, operations);
    const engine = new VirtualEngine(left, programWith(copy, operations), kernel, mutant);
    return {
      program: left,
      engine,
      fails: (plan) => {
        setPlan(engine.control, { stepLimit: 2000, ...plan });
        engine.run();
        const failure = judge(left, engine);
        engine.restore();
        return failure;
      },
    };
  };
}

/** How the run ended, and what the program says of it. */
function judge(
  program: ExploreProgram,
  engine: exploration.Subject['engine'],
): exploration.Failure | undefined {
  const { control, world } = engine;
  const failure = (kind: string, message: string): exploration.Failure => ({
    kind,
    message,
    signature: `${kind}: ${message}`,
  });
  switch (control[words.C_END]) {
    case words.END_DONE: {
      const violated = program.check?.(world.machine.cpu, world.pointer);
      return violated === undefined ? undefined : failure('invariant', violated);
    }
    case words.END_DEADLOCK:
      return failure('deadlock', 'nobody can go on');
    case words.END_LIVELOCK:
      return failure('livelock', 'nobody gets on');
    case words.END_DIED:
      if (!(engine.error instanceof KernelBug) && !(engine.error instanceof FaultlineError))
        throw engine.error;
      return failure('died', engine.error.message);
    default:
      return undefined;
  }
}

/**
 * Of `seeds` random schedules, the failing one with the most switches. Every other schedule lets tasks run
 * on for longer (POS), which some mistakes need.
 */
export function findFailure(subject: exploration.Subject, seeds = 1000): exploration.Deviation[] {
  let found: exploration.Deviation[] | undefined;
  for (let seed = 1; seed <= seeds; seed++) {
    const random = Math.imul(seed, 0x9e3779b1) | 1;
    const priorities = subject.program.tasks.map(
      (_, task) => Math.imul(random, 2 * task + 3) >>> 1,
    );
    const rule = seed % 2 === 0 ? words.RULE_POS : words.RULE_RANDOM;
    if (subject.fails({ rule, random, priorities }) === undefined) continue;
    const deviations = exploration.deviationsOf(subject.engine.control);
    if (found === undefined || deviations.length > found.length) found = deviations;
  }
  if (found === undefined) throw new Error(`${subject.program.name}: no random schedule fails`);
  return found;
}
