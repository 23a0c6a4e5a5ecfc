/**
 * The file a Piscina worker runs. The package's own name leads to the bundle of the build that the
 * worker's conditions choose.
 *
 * @module
 */
export { runCrewMember as default, runExploreMember } from 'faultline';
