/**
 * Tables, in the one style of all reports.
 *
 * Colours are put on here and not by the table's library, which has a mind of its own about when there may be
 * any: none where the environment says `CI`, whatever the terminal can do.
 *
 * @module
 */
import { styleText } from 'node:util';

import Table from 'cli-table3';

/** A table to be drawn. */
export interface TextTable {
  readonly head: readonly string[];
  readonly colAligns: readonly ('left' | 'right')[];
  readonly rows: readonly (readonly (string | number)[])[];
  /** Bold heads and grey lines. Default: false. */
  readonly color?: boolean;
  /** Characters of the last column, whose text goes on in the next line. Default: as many as it needs. */
  readonly lastWidth?: number;
  /** Characters of all: columns whose cells have several words give way, the widest first. Default: no limit. */
  readonly width?: number;
}

const LINES = /[─│┌┐└┘├┤┬┴┼]+/g;

/** The table's lines. */
export function textTable(spec: TextTable): string {
  const { head, colAligns, rows, color = false, lastWidth, width } = spec;
  const widths = columnWidths([head, ...rows.map((row) => row.map(String))], width);
  const table = new Table({
    head: head.map((name) => (color && name !== '' ? styled('bold', name) : name)),
    colAligns: [...colAligns],
    colWidths: widths.map((cells, index) =>
      index === head.length - 1 ? (lastWidth ?? cells) : cells,
    ),
    wordWrap: lastWidth !== undefined || width !== undefined,
    style: { head: [], border: [], compact: true },
  });
  for (const row of rows) table.push([...row]);
  const text = table.toString();
  return color ? text.replace(LINES, (line) => styled('grey', line)) : text;
}

/** Characters of a cell besides its text. */
const PADDING = 2;

/** How wide each column is, so that all fit; null: as wide as its cells. */
function columnWidths(cells: readonly (readonly string[])[], limit = Infinity): (number | null)[] {
  const columns = (cells[0] ?? []).map((_, index) => {
    const texts = cells.map((row) => row[index] ?? '');
    const words = texts.flatMap((text) => text.split(' '));
    return { width: longest(texts) + PADDING, least: longest(words) + PADDING };
  });
  const all = columns.reduce((sum, { width }) => sum + width + 1, 1);
  if (all <= limit) return columns.map(() => null);
  let over = all - limit;
  while (over > 0) {
    const [widest] = columns
      .filter(({ width, least }) => width > least)
      .sort((one, other) => other.width - one.width);
    if (widest === undefined) break;
    widest.width--;
    over--;
  }
  return columns.map(({ width }) => width);
}

function longest(texts: readonly string[]): number {
  return Math.max(0, ...texts.map((text) => text.length));
}

/** Whether there may be colours has been decided by who asks for them. */
function styled(style: 'bold' | 'grey', text: string): string {
  return styleText(style, text, { validateStream: false });
}
