#!/usr/bin/env node
/**
 * The command `faultline`: what the process does in any case, then the program.
 *
 * Loading the program takes a while; a signal that comes meanwhile is already listened to.
 *
 * @module
 */
import { watchSignals } from './interrupt.js';
import { endAfterOutput, watchEnd, watchErrors, watchOutput } from './process.js';

watchSignals();
watchOutput();
watchErrors();
watchEnd();
const { runProgram } = await import('./program.js');
endAfterOutput(await runProgram());
