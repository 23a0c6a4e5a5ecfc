/**
 * Positions in stack traces, in terms of the source that was written and not of what was compiled from it.
 *
 * Node would do this itself with --enable-source-maps; but then every worker parses the map when it loads
 * its code, which takes longer than loading the code. Here maps are read when somebody has died.
 *
 * @module
 */
import { readFileSync } from 'node:fs';
import { SourceMap } from 'node:module';
import { fileURLToPath } from 'node:url';

/** Where a stack frame is: at the end of its line, with or without parentheses. */
const POSITION = /(file:\/\/[^\s()]+):(\d+):(\d+)/g;
const MAP_COMMENT = /^\/\/# sourceMappingURL=(\S+)\s*$/m;
/** TypeScript, compiled and bundled: two maps. More would be a circle. */
const MAPS_MAX = 4;

interface Position {
  /** URL of the file. */
  readonly file: string;
  /** From 1, as is `column`. */
  readonly line: number;
  readonly column: number;
}

/** The trace with the position of each frame in the source, where a map tells it. */
export function mapStack(stack: string): string {
  const maps = new Map<string, SourceMap | undefined>();
  return stack.replace(POSITION, (_, file: string, line: string, column: string) => {
    const at = originOf({ file, line: Number(line), column: Number(column) }, maps);
    return `${at.file}:${at.line}:${at.column}`;
  });
}

function originOf(start: Position, maps: Map<string, SourceMap | undefined>): Position {
  let at = start;
  for (let i = 0; i < MAPS_MAX; i++) {
    if (!maps.has(at.file)) maps.set(at.file, mapOf(at.file));
    const entry = maps.get(at.file)?.findEntry(at.line - 1, at.column - 1);
    if (entry === undefined || !('originalSource' in entry)) return at;
    at = {
      file: new URL(entry.originalSource, at.file).href,
      line: entry.originalLine + 1,
      column: entry.originalColumn + 1,
    };
  }
  return at;
}

/** The map that a file names, if it does and there is one. */
function mapOf(file: string): SourceMap | undefined {
  try {
    const [, name] = MAP_COMMENT.exec(readFileSync(fileURLToPath(file), 'utf8')) ?? [];
    if (name === undefined) return undefined;
    const text = readFileSync(fileURLToPath(new URL(name, file)), 'utf8');
    return new SourceMap(JSON.parse(text) as ConstructorParameters<typeof SourceMap>[0]);
  } catch {
    return undefined; // the report shows the position in the compiled file
  }
}
