/**
 * Loaded before a program (`node --import`), makes it believe that it writes to a terminal.
 *
 * @module
 */
const columns = Number(process.env['FAKE_COLUMNS']);

for (const stream of [process.stdout, process.stderr]) {
  Object.assign(stream, { isTTY: true, columns, rows: 40 });
}
