/**
 * Licenses of modules, as they say themselves.
 *
 * Kernel     include/linux/license.h
 *
 * @module
 */

const GPL_COMPATIBLE: ReadonlySet<string> = new Set([
  'GPL',
  'GPL v2',
  'GPL and additional rights',
  'Dual BSD/GPL',
  'Dual MIT/GPL',
  'Dual MPL/GPL',
]);

/** True if a module with that license may use symbols that are for GPL modules only. */
export function licenseIsGplCompatible(license: string): boolean {
  return GPL_COMPATIBLE.has(license);
}
