/**
 * Where a result was measured: without it a figure says nothing.
 *
 * @module
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { arch, availableParallelism, cpus, platform, release, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';

import type { AtomicsForm } from '../memory/native.js';
import { countOf } from './format.js';

export interface Environment {
  readonly faultline: string;
  /** Commit of the checkout that ran, with `+` if it had changes; null if it is no checkout. */
  readonly commit: string | null;
  readonly cpu: string;
  readonly cores: number;
  /** Worker threads of the largest machine of the run. */
  readonly threads: number;
  /** There are more of them than cores, so what was measured includes waiting for a core. */
  readonly oversubscribed: boolean;
  readonly memoryBytes: number;
  readonly os: string;
  readonly node: string;
  readonly v8: string;
  readonly atomics: AtomicsForm;
  readonly date: string;
}

const PACKAGE_ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** The version of this package. */
export function packageVersion(): string {
  const text = readFileSync(`${PACKAGE_ROOT}package.json`, 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/**
 * Describes this machine and this run.
 * @param threads worker threads of the largest machine of the run
 */
export function describeEnvironment(atomics: AtomicsForm, threads: number): Environment {
  return {
    faultline: packageVersion(),
    commit: commitOf(PACKAGE_ROOT),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    threads,
    oversubscribed: threads > availableParallelism(),
    memoryBytes: totalmem(),
    os: `${platform()} ${release()} ${arch()}`,
    node: process.versions.node,
    v8: process.versions.v8,
    atomics,
    date: new Date().toISOString(),
  };
}

function commitOf(root: string): string | null {
  if (!existsSync(`${root}.git`)) return null;
  const git = (...args: string[]): string | undefined => {
    const { status, stdout } = spawnSync('git', ['-C', root, ...args], { encoding: 'utf8' });
    return status === 0 ? stdout.trim() : undefined;
  };
  const commit = git('rev-parse', '--short=12', 'HEAD');
  if (commit === undefined) return null;
  return git('status', '--porcelain', '--untracked-files=no') === '' ? commit : `${commit}+`;
}

/** One line, as a table's header wants it. */
export function environmentLine(environment: Environment): string {
  const { cpu, cores, os, node, v8, atomics, faultline, commit } = environment;
  const version = commit === null ? faultline : `${faultline} (${commit})`;
  return `faultline ${version} · ${cpu}, ${countOf(cores, 'core')} · ${os} · Node ${node}, V8 ${v8} · ${atomics} atomics`;
}

/** What a reader must know if there are more threads than cores; one line or none. */
export function oversubscriptionNote({ threads, cores, oversubscribed }: Environment): string[] {
  if (!oversubscribed) return [];
  const counts = `${countOf(threads, 'thread')} on ${countOf(cores, 'core')}`;
  return [`note: ${counts}: latencies and shares include waiting for a core`];
}
