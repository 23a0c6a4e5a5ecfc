/**
 * What Piscina runs on each worker: it imports the worker's module when the first task comes, and calls the function of
 * it that the task names.
 *
 * Piscina would `require` that module first. Where Node can do so with an ES module, the process dies of a fatal error
 * if it ends, or ends the worker, just then; so nothing but this file is loaded by `require`.
 *
 * What a worker prints goes to stderr: stdout is for results.
 *
 * @module
 */
process.stdout.write = process.stderr.write.bind(process.stderr);

interface NamedTask {
  /** URL of the worker's module. */
  readonly module: string;
  /** The function's name among its exports. */
  readonly entry: string;
  readonly task: unknown;
}

type Entry = (task: unknown) => unknown;

async function runTask({ module: url, entry, task }: NamedTask): Promise<unknown> {
  const exported = (await import(url)) as Readonly<Record<string, Entry>>;
  const run = exported[entry];
  if (run === undefined) throw new TypeError(`${url} exports no ${entry}`);
  return run(task);
}

module.exports = runTask;
