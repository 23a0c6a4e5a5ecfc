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
}

const LINES = /[─│┌┐└┘├┤┬┴┼]+/g;

/** The table's lines. */
export function textTable(spec: TextTable): string {
  const { head, colAligns, rows, color = false, lastWidth } = spec;
  const table = new Table({
    head: head.map((name) => (color && name !== '' ? styled('bold', name) : name)),
    colAligns: [...colAligns],
    colWidths: head.map((_, index) => (index === head.length - 1 ? (lastWidth ?? null) : null)),
    wordWrap: lastWidth !== undefined,
    style: { head: [], border: [], compact: true },
  });
  for (const row of rows) table.push([...row]);
  const text = table.toString();
  return color ? text.replace(LINES, (line) => styled('grey', line)) : text;
}

/** Whether there may be colours has been decided by who asks for them. */
function styled(style: 'bold' | 'grey', text: string): string {
  return styleText(style, text, { validateStream: false });
}
