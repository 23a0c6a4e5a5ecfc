/**
 * A user's module for the virtual engine: rewritten as the kernel is, over the rewritten kernel.
 *
 * Protocol   Its text is read, rewritten, and imported as a data: URL that says which file it came from.
 *            What it imports from `faultline` comes from the rewritten kernel; modules of its own are
 *            rewritten too; whatever else it imports stays as it is.
 * Deviation  Modules of a user's that import each other in a circle are refused.
 *
 * @module
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { FaultlineError } from '../base/bug.js';
import { reasonOf } from '../base/reason.js';
import { readImports, rewrite } from './rewrite.js';

type Exports = Readonly<Record<string, unknown>>;

/** Where the rewritten kernel is. */
const VIRTUAL_KERNEL = 'faultline/virtual';

const GeneratorFunction = Object.getPrototypeOf(function* () {
  // for its kind only
}) as object;

const isGeneratorFunction = (value: unknown): boolean =>
  typeof value === 'function' && Object.getPrototypeOf(value) === GeneratorFunction;

/** Rewrites and loads modules; each is loaded once. */
export class VirtualModules {
  readonly #kernel: Exports;
  readonly #kernelUrl: string;
  /** What the URLs of this package's own modules begin with: they are the kernel, but not rewritten. */
  readonly #ownFiles: string;
  readonly #methods: Set<string>;
  readonly #loaded = new Map<string, { readonly url: string; readonly exports: Exports }>();
  readonly #loading = new Set<string>();

  constructor(kernel: Exports, kernelUrl = import.meta.resolve(VIRTUAL_KERNEL)) {
    this.#kernel = kernel;
    this.#kernelUrl = kernelUrl;
    this.#ownFiles = new URL('./src/', kernelUrl).href;
    this.#methods = new Set([kernel, ...Object.values(kernel)].flatMap(generatorNames));
  }

  /** What the module exports, rewritten. @throws FaultlineError if it cannot be */
  async load(url: string): Promise<Exports> {
    return (await this.#load(url)).exports;
  }

  async #load(url: string): Promise<{ url: string; exports: Exports }> {
    const known = this.#loaded.get(url);
    if (known !== undefined) return known;
    if (this.#loading.has(url)) throw bad(url, 'imports itself, by way of others');
    this.#loading.add(url);
    const code = readFileSync(fileURLToPath(url), 'utf8');
    const importFrom = new Map<string, string>();
    const generators = new Set<string>();
    for (const { from, names } of readImports(code)) {
      const source = await this.#source(from, url);
      importFrom.set(from, source.url);
      for (const [local, name] of names) {
        if (isGeneratorFunction(source.exports[name])) generators.add(local);
      }
    }
    const { code: text, methods } = rewrite(code, {
      primitives: new Map(),
      generators,
      methods: this.#methods,
      anyFirstArgument: true,
      importFrom,
    });
    for (const name of methods) this.#methods.add(name);
    const dataUrl = `data:text/javascript,${encodeURIComponent(`${text}\n//# sourceURL=${url}`)}`;
    const exports = await this.#import(dataUrl, url);
    this.#loading.delete(url);
    const loaded = { url: dataUrl, exports };
    this.#loaded.set(url, loaded);
    return loaded;
  }

  async #import(dataUrl: string, url: string): Promise<Exports> {
    try {
      return (await import(dataUrl)) as Exports;
    } catch (error) {
      let message = reasonOf(error).replaceAll(dataUrl, fileURLToPath(url));
      for (const [of, { url: data }] of this.#loaded) {
        message = message.replaceAll(data, fileURLToPath(of));
      }
      throw bad(url, message);
    }
  }

  /** Where an import of `from` by the module at `url` leads. */
  async #source(from: string, url: string): Promise<{ url: string; exports: Exports }> {
    if (from === 'faultline') return { url: this.#kernelUrl, exports: this.#kernel };
    if (from.startsWith('.') || from.startsWith('file:')) {
      const { href } = new URL(from, url);
      if (href.startsWith(this.#ownFiles)) throw bad(url, `imports ${from}, and not 'faultline'`);
      return this.#load(href);
    }
    if (from.startsWith('node:')) return { url: from, exports: {} };
    return { url: pathToFileURL(createRequire(url).resolve(from)).href, exports: {} };
  }
}

/** Names under which a value of the kernel's, a namespace perhaps, has generator functions. */
function generatorNames(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, member]) =>
    isGeneratorFunction(member) ? [name] : [],
  );
}

function bad(url: string, what: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_PROGRAM', `${fileURLToPath(url)}: ${what}`);
}
