/**
 * The files that the package's own code is run from, as stack traces and imports name them.
 *
 * @module
 */

/** How the names of the bundles begin (scripts/bundle.mjs); their folder also has that of the compiled modules. */
export const BUNDLES = ['kernel', 'explore', 'torture', 'faultline'];
