/**
 * The thread that tries to load a driver module, and posts what is wrong with it, or undefined.
 *
 * @module
 */
import { parentPort, workerData } from 'node:worker_threads';

import { problemOf } from './driver-problem.js';

parentPort?.postMessage(await problemOf(workerData as string));
