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
import { createRequire, isBuiltin } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { FaultlineError } from '../base/bug.js';
import { BUNDLES } from '../base/own-code.js';
import { reasonOf } from '../base/reason.js';
import { rewrite } from './rewrite.js';
import { readImports, WHOLE } from './rewrite-syntax.js';

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
  readonly #ownFiles: readonly string[];
  readonly #methods: Set<string>;
  readonly #loaded = new Map<string, { readonly url: string; readonly exports: Exports }>();
  readonly #loading = new Set<string>();

  constructor(kernel: Exports, kernelUrl = import.meta.resolve(VIRTUAL_KERNEL)) {
    this.#kernel = kernel;
    this.#kernelUrl = kernelUrl;
    this.#ownFiles = ['src/', ...BUNDLES].map((own) => new URL(own, kernelUrl).href);
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
    const code = readFileSync(fileURLToPath(url), 'utf8').replace(/^#!/, '//');
    const text = await this.#rewrite(code, url);
    const dataUrl = `data:text/javascript,${encodeURIComponent(`${text}\n//# sourceURL=${url}`)}`;
    const exports = await this.#import(dataUrl, url);
    this.#loading.delete(url);
    const loaded = { url: dataUrl, exports };
    this.#loaded.set(url, loaded);
    return loaded;
  }

  async #rewrite(code: string, url: string): Promise<string> {
    const importFrom = new Map<string, string>();
    const generators = new Set<string>();
    const namespaces = new Map<string, ReadonlySet<string>>();
    for (const { from, names } of importsIn(code, url)) {
      const source = await this.#source(from, url);
      importFrom.set(from, source.url);
      for (const [local, name] of names) {
        if (name === WHOLE) namespaces.set(local, new Set(generatorNames(source.exports)));
        else if (isGeneratorFunction(source.exports[name])) generators.add(local);
      }
    }
    const options = { generators, namespaces, methods: this.#methods, importFrom };
    try {
      const primitives = new Map<string, string>();
      const rewritten = rewrite(code, { ...options, primitives, userModule: url });
      for (const name of rewritten.methods) this.#methods.add(name);
      return rewritten.code;
    } catch (error) {
      throw bad(url, reasonOf(error));
    }
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
    if (isBuiltin(from)) return { url: from, exports: {} };
    const isOwn = from.startsWith('.') || from.startsWith('file:');
    const { href } = isOwn ? new URL(from, url) : pathToFileURL(createRequire(url).resolve(from)); // an npm package
    if (this.#ownFiles.some((own) => href.startsWith(own))) {
      throw bad(url, `imports ${from}, and not 'faultline'`);
    }
    if (href.endsWith('.json')) return { url: href, exports: {} };
    return isOwn || usesFaultline(href) ? this.#load(href) : { url: href, exports: {} };
  }
}

function importsIn(code: string, url: string): ReturnType<typeof readImports> {
  try {
    return readImports(code);
  } catch (error) {
    throw bad(url, reasonOf(error));
  }
}

/** True of a module that works on machines, which the engine must follow. */
function usesFaultline(url: string): boolean {
  const code = readFileSync(fileURLToPath(url), 'utf8');
  return /\bfrom\s*['"]faultline['"]/.test(code);
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
