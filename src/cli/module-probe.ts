/**
 * The thread that tries to load a module of the user's, and posts what is wrong with it, or undefined.
 *
 * @module
 */
import { parentPort, workerData } from 'node:worker_threads';

import { type ModuleKind, problemOf } from './module-problem.js';

const { url, kind } = workerData as { readonly url: string; readonly kind: ModuleKind };
parentPort?.postMessage(await problemOf(url, kind));
