/**
 * Places in the source: which line of which function of kernel code a step was made by.
 *
 * The door to memory, the locks' lowest parts and the machinery of exploration are left out: what made
 * them do it is wanted. Positions go through the source maps of the bundles and of the compiler.
 *
 * @module
 */
import { BUNDLES } from '../../base/own-code.js';
import { type Position, positionMapper } from '../../host/source-position.js';

/** A place in the source. */
export interface Site {
  /** From the project's root if it is in it: `src/notifier/mmu-interval-notifier.ts`. */
  readonly file: string;
  readonly line: number;
  readonly function: string;
}

/** Lines of a stack as places, the innermost first. */
export type SiteReader = (stack: readonly string[]) => Site[];

const FRAME =
  /^at (?:async )?(?:(.+?) (?:\[as [^\]]+\] )?\()?((?:file:\/\/|\/)[^\s()]+):(\d+):(\d+)\)?$/;
/** The folder that a bundle or a compiled file is in, with a folder `dist` in between. */
const ROOT = new RegExp(`^(.*/)dist/(?:(?:${BUNDLES.join('|')})[\\w.-]*\\.js|src/|test/)`);
/**
 * Code that only does what it is told, by a caller that matters. What has no source is the door as the
 * modules of users see it (rewrite.ts).
 */
const MACHINERY =
  /^dist\/|^src\/(?:memory\/|debug\/|explore\/(?!programs\/)|machine\/(?:arch-spinlock|sched)\.ts|sync\/spinlock\.ts)/;

/** Reads stacks; keeps the maps that it has read. */
export function siteReader(): SiteReader {
  const originOf = positionMapper();
  const known = new Map<string, Site | undefined>();
  return (stack) =>
    stack.flatMap((line) => {
      if (!known.has(line)) known.set(line, siteOf(line, originOf));
      const site = known.get(line);
      return site === undefined ? [] : [site];
    });
}

function siteOf(line: string, originOf: (at: Position) => Position): Site | undefined {
  const [, name = '', path, row, column] = FRAME.exec(line) ?? [];
  if (path === undefined) return undefined;
  const file = path.startsWith('/') ? `file://${path}` : path;
  const at = originOf({ file, line: Number(row), column: Number(column) });
  const root = ROOT.exec(file)?.[1];
  const inProject = root !== undefined && at.file.startsWith(root);
  return {
    file: inProject ? at.file.slice(root.length) : at.file.replace(/^file:\/\//, ''),
    line: at.line,
    function: plainName(name),
  };
}

/** `Object.invalidate`, and `read$1` of a bundle that has two of that name. */
function plainName(name: string): string {
  return name.replace(/^(?:Object|Module)\./, '').replace(/\$\d+$/, '');
}

/** Of a step's places, those of code that has reasons of its own, the innermost first. */
export function actingSites(sites: readonly Site[], modelsLocks: boolean): Site[] {
  const acting = sites.filter(
    ({ file }) => !MACHINERY.test(file) || (!modelsLocks && file.endsWith('spinlock.ts')),
  );
  if (acting.length > 0) return acting;
  return sites.filter(({ file }) => !/^dist\/|^src\/(?:memory|explore)\//.test(file));
}

/** `mmu-interval-notifier.ts:107`. */
export function shortPlace({ file, line }: Site): string {
  return `${file.replace(/^.*\//, '')}:${line}`;
}
