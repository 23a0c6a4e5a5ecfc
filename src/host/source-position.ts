/**
 * Positions in stack traces, in terms of the source that was written and not of what was compiled from it.
 *
 * Node would do this itself with --enable-source-maps; but then every worker parses the map when it loads
 * its code, which takes longer than loading the code. Here maps are read when somebody has died.
 *
 * @module
 */
import { readFileSync } from 'node:fs';
import { SourceMap, type SourceMapping } from 'node:module';
import { fileURLToPath } from 'node:url';

/** Where a stack frame is: at the end of its line, with or without parentheses. */
const POSITION = /(file:\/\/[^\s()]+):(\d+):(\d+)/g;
const MAP_COMMENT = /^\/\/# sourceMappingURL=(\S+)\s*$/m;
/** TypeScript, compiled and bundled: two maps. More would be a circle. */
const MAPS_MAX = 4;
/** Columns before the first that a map knows of a line. */
const INDENT_MAX = 80;

/** A place in a file. */
export interface Position {
  /** URL of the file. */
  readonly file: string;
  /** From 1, as is `column`. */
  readonly line: number;
  readonly column: number;
}

/** Finds where the source of a position is; keeps the maps that it has read. */
export function positionMapper(): (at: Position) => Position {
  const maps = new Map<string, SourceMap | undefined>();
  return (at) => originOf(at, maps);
}

/** Maps that were read for stack traces: where one CPU has died, the others say where they were, too. */
const mapPosition = positionMapper();

/** The trace with the position of each frame in the source, where a map tells it. */
export function mapStack(stack: string): string {
  return stack.replace(POSITION, (_, file: string, line: string, column: string) => {
    const at = mapPosition({ file, line: Number(line), column: Number(column) });
    return `${at.file}:${at.line}:${at.column}`;
  });
}

function originOf(start: Position, maps: Map<string, SourceMap | undefined>): Position {
  let at = start;
  for (let i = 0; i < MAPS_MAX; i++) {
    if (!maps.has(at.file)) maps.set(at.file, mapOf(at.file));
    const entry = entryOnLine(maps.get(at.file), at);
    if (entry === undefined) return at;
    at = {
      file: new URL(entry.originalSource, at.file).href,
      line: entry.originalLine + 1,
      column: entry.originalColumn + 1,
    };
  }
  return at;
}

/**
 * What the map has for a position. A bundler may know the line alone and say column 1; what the compiler's
 * map has there, in the indentation, is the end of the line before.
 */
function entryOnLine(
  map: SourceMap | undefined,
  { line, column }: Position,
): SourceMapping | undefined {
  for (let later = 0; later < INDENT_MAX; later++) {
    const entry = map?.findEntry(line - 1, column - 1 + later);
    if (entry === undefined || !('originalSource' in entry)) return undefined;
    if (entry.generatedLine === line - 1) return entry;
  }
  return undefined;
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
