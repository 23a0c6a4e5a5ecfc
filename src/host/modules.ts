/**
 * Modules by name: those that are part of faultline, and those of a user by URL.
 *
 * A worker runs from one bundled file (scripts/bundle.mjs), in which its own modules have no URL; so
 * programs and ops tables of ours are known by a name that begins with `faultline:`.
 *
 * @module
 */

/** What a module exports. */
export type ModuleExports = Readonly<Record<string, unknown>>;
/** Modules that are part of faultline, by name; some are loaded when they are asked for. */
export type BuiltIns = Readonly<Record<string, () => ModuleExports | Promise<ModuleExports>>>;

/** The module of that name, or at that URL. */
export async function loadModule(builtIns: BuiltIns, name: string): Promise<ModuleExports> {
  const builtIn = builtIns[name];
  return builtIn ? builtIn() : ((await import(name)) as ModuleExports);
}

/** The modules of those names, in order. */
export async function loadModules(
  builtIns: BuiltIns,
  names: readonly string[],
): Promise<ModuleExports[]> {
  const modules: ModuleExports[] = [];
  for (const name of names) modules.push(await loadModule(builtIns, name));
  return modules;
}
