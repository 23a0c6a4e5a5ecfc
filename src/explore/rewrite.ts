/**
 * Rewrites kernel code so that many tasks run on one thread: for the virtual engine.
 *
 * Protocol   A function that can reach a scheduling point becomes a generator. At the point itself, a call
 *            of an operation of #memory, the caller asks for its turn first, and yields if it is another
 *            task's:
 *
 *              readOnce(cpu, p, F)   ->   ($turn(cpu, 3, p + F, 1) && (yield), readOnce(cpu, p, F))
 *
 *            A call of such a function runs it; if it yields, the caller leaves it in $pending and yields
 *            too, up to the engine, which resumes the innermost first and gives each caller its value. So
 *            a switch costs the same however deep the calls are, which `yield*` would not:
 *
 *              f(cpu)   ->   ($g = f(cpu), $s = $g.next(), $s.done ? $s.value : ($pending.push($g), yield))
 *
 *            Arguments that do more than name a value are computed before, in order. Lines keep their
 *            numbers, so that a source map of the input holds for the output.
 *
 *            Which functions those are: whoever calls an operation, calls such a function by its name, or
 *            calls, with `cpu` first, a method of an ops table that has one. What the input does not say (a
 *            call of a parameter) is decided at run time.
 * Deviation  Methods of classes, constructors, async functions and callbacks of array methods stay as they
 *            are: no kernel code is among them. A task that gets there ends with an error that says so.
 *
 * @module
 */
import { type AnyNode, parse, type Program } from 'acorn';

import {
  OP_ACQUIRE,
  OP_ALLOC,
  OP_FREE,
  OP_LOCK,
  OP_PARK,
  OP_READ,
  OP_READ_ONCE,
  OP_RELEASE,
  OP_RESUME,
  OP_RMW,
  OP_SPIN,
  OP_UNPARK,
  OP_WRITE,
  OP_WRITE_ONCE,
} from '../memory/turnstile.js';
import { type InlineBody, INLINED, straightBody } from './rewrite-inline.js';

/** What an operation announces: its kind, and from which arguments its words follow. */
interface Announcement {
  readonly kind: number;
  /** Arguments whose sum is the first word; none: 0. */
  readonly at: readonly number[];
  /** A number of words, or the argument that says how many `unit`s they are. */
  readonly count: number | { readonly argument: number; readonly unit: number };
}

const field = (kind: number, count = 1): Announcement[] => [{ kind, at: [1, 2], count }];
const run = (kind: number, at: number, argument: number, unit: number): Announcement => ({
  kind,
  at: [at],
  count: { argument, unit },
});

/** The operations of memory/memory.turnstile.ts that announce themselves. */
const PRIMITIVES: Readonly<Record<string, readonly Announcement[]>> = {
  read: field(OP_READ),
  write: field(OP_WRITE),
  readAddress: field(OP_READ, 2),
  writeAddress: field(OP_WRITE, 2),
  readOnce: field(OP_READ_ONCE),
  writeOnce: field(OP_WRITE_ONCE),
  loadAcquire: field(OP_ACQUIRE),
  storeRelease: field(OP_RELEASE),
  writeRelease: field(OP_RELEASE),
  fetchAdd: field(OP_RMW),
  fetchOr: field(OP_RMW),
  fetchAnd: field(OP_RMW),
  exchange: field(OP_RMW),
  cmpxchg: field(OP_RMW),
  parkCheck: field(OP_PARK),
  parkResume: field(OP_RESUME),
  unpark: field(OP_UNPARK),
  awaitFree: field(OP_LOCK),
  relax: [{ kind: OP_SPIN, at: [], count: 0 }],
  writeOnceCells: [run(OP_WRITE_ONCE, 1, 3, 2)],
  clearCells: [run(OP_WRITE_ONCE, 1, 2, 2)],
  changeCells: [run(OP_RMW, 1, 2, 2)],
  takeCells: [run(OP_RMW, 2, 3, 2)],
  readOnceCells: [run(OP_READ_ONCE, 2, 3, 2)],
  readOnceCellsWhile: [run(OP_READ_ONCE, 2, 3, 2)],
  fillWords: [run(OP_WRITE, 1, 3, 1)],
  loadRun: [run(OP_READ, 1, 2, 1)],
  storeRun: [run(OP_WRITE, 1, 3, 1)],
  noteFree: [run(OP_FREE, 1, 2, 1)],
  noteAlloc: [run(OP_ALLOC, 1, 2, 1)],
};

/** Functions without effect, whose calls may be repeated. */
const PURE = new Set([
  'member',
  'element',
  'addressElement',
  'containerOf',
  'addressCell',
  'cpuArea',
  'thisCpuPtr',
]);

/** What a rewritten module needs; the engine provides it. */
export const RUNTIME = `
const $turn = (cpu, kind, at, count) => cpu.turnstile !== null && cpu.turnstile.mustYield(cpu, kind, at, count);
const $isGenerator = (value) => typeof value === 'object' && value !== null && typeof value.next === 'function';
const $pending = (globalThis[Symbol.for('faultline.pending')] ??= []);
const $outside = (name) => { throw new Error(name + ' is called where the virtual engine cannot follow: in a callback, a class or an async function'); };
`.replaceAll('\n', ' ');

type FunctionNode = Extract<
  AnyNode,
  { type: 'FunctionDeclaration' | 'FunctionExpression' | 'ArrowFunctionExpression' }
>;

interface FunctionInfo {
  readonly node: FunctionNode;
  readonly name: string;
  readonly parent: FunctionInfo | undefined;
  /** Names declared in it: parameters, variables, functions. */
  readonly locals: Map<string, FunctionInfo | null>;
  readonly parameters: Set<string>;
  /** False for what cannot become a generator. */
  readonly convertible: boolean;
  /** Property of an object literal that holds it. */
  property: string | undefined;
  yields: boolean;
  /** It calls generators. */
  calls: boolean;
  temporaries: number;
}

/** What names of the module mean. */
export interface RewriteOptions {
  /** Local name of each operation of #memory. */
  readonly primitives: ReadonlyMap<string, string>;
  /** Names that hold generator functions from elsewhere. */
  readonly generators?: ReadonlySet<string>;
  /** Method names that hold generator functions elsewhere. */
  readonly methods?: ReadonlySet<string>;
  /** True for code that need not call its CPU `cpu`: any call of a parameter or such a method may yield. */
  readonly anyFirstArgument?: boolean;
  /** What an import is to be read from instead. */
  readonly importFrom?: ReadonlyMap<string, string>;
}

export interface Rewritten {
  readonly code: string;
  /** Names of methods of object literals that are generators. */
  readonly methods: ReadonlySet<string>;
}

/** Rewrites one module. @throws SyntaxError if it is none */
export function rewrite(code: string, options: RewriteOptions): Rewritten {
  return new Rewriter(code, options).run();
}

/** Local names of the operations, from the namespace object that a bundler makes of #memory. */
export function primitivesOfBundle(code: string): Map<string, string> {
  const names = new Map<string, string>();
  const program = parse(code, { ecmaVersion: 'latest', sourceType: 'module' });
  for (const node of program.body) {
    if (node.type !== 'VariableDeclaration') continue;
    for (const { init } of node.declarations) {
      if (init?.type !== 'CallExpression') continue;
      const [object] = init.arguments;
      if (object?.type !== 'ObjectExpression') continue;
      const entries = object.properties.flatMap((property) =>
        property.type === 'Property' &&
        property.key.type === 'Identifier' &&
        property.value.type === 'Identifier'
          ? [[property.key.name, property.value.name] as const]
          : [],
      );
      if (!entries.some(([key]) => key === 'parkCheck')) continue;
      for (const [key, local] of entries) if (key in PRIMITIVES) names.set(local, key);
    }
  }
  if (names.size === 0) throw new Error('the bundle has no namespace of #memory');
  return names;
}

/** A generator function that asks for its turn and makes the operation: for callers that do not know it is one. */
export function wrapperOf(name: string, local: string): string {
  const parameters = Array.from({ length: 8 }, (_, i) => (i === 0 ? 'cpu' : `a${i}`));
  const asks = turnsOf(name, parameters).join(', ');
  return `function* (${parameters.join(', ')}) { ${asks}; return ${local}(${parameters.join(', ')}); }`;
}

function turnsOf(name: string, args: readonly string[]): string[] {
  return PRIMITIVES[name]!.map(({ kind, at, count }) => {
    const where = at.length === 0 ? '0' : at.map((i) => `(${args[i]!})`).join(' + ');
    const many =
      typeof count === 'number' ? String(count) : `(${args[count.argument]!}) * ${count.unit}`;
    return `$turn(${args[0]!}, ${kind}, ${where}, ${many}) && (yield)`;
  });
}

class Rewriter {
  readonly #code: string;
  readonly #options: RewriteOptions;
  readonly #program: Program;
  readonly #functions = new Map<AnyNode, FunctionInfo>();
  readonly #topLevel = new Map<string, FunctionInfo | null>();
  readonly #methods: Set<string>;
  readonly #importSources: ReadonlySet<AnyNode>;
  /** What parameters and constants are called while a function's body is put in the place of its call. */
  #names: ReadonlyMap<string, string> | undefined;

  constructor(code: string, options: RewriteOptions) {
    this.#code = code;
    this.#options = options;
    this.#program = parse(code, { ecmaVersion: 'latest', sourceType: 'module' });
    this.#methods = new Set(options.methods);
    this.#importSources = new Set(importsOf(this.#program));
  }

  run(): Rewritten {
    this.#declare(this.#program, undefined, true);
    while (this.#markOnce()) {
      // until nothing changes
    }
    const code = this.#program.body.length === 0 ? '' : this.#emitProgram();
    return { code, methods: this.#methods };
  }

  // --- who is who ---

  #declare(node: AnyNode, owner: FunctionInfo | undefined, convertible: boolean, hint = ''): void {
    if (isFunction(node)) {
      this.#declareFunction(node, owner, convertible, hint);
      return;
    }
    if (node.type === 'VariableDeclarator') {
      for (const name of namesOf(node.id)) this.#bind(owner, name, null);
      if (node.init != null) {
        const name = node.id.type === 'Identifier' ? node.id.name : '';
        this.#declare(node.init, owner, true, name);
        const made = this.#functions.get(node.init);
        if (made !== undefined && name !== '') this.#bind(owner, name, made);
      }
      return;
    }
    if (node.type === 'ClassDeclaration' || node.type === 'ClassExpression') {
      if (node.id != null) this.#bind(owner, node.id.name, null);
      for (const child of childrenOf(node)) this.#declare(child, owner, true);
      return;
    }
    if (
      node.type === 'MethodDefinition' ||
      node.type === 'PropertyDefinition' ||
      (node.type === 'Property' && node.kind !== 'init')
    ) {
      for (const child of childrenOf(node)) this.#declare(child, owner, false);
      return;
    }
    if (node.type === 'Property' && node.kind === 'init' && isFunction(node.value)) {
      const name = node.key.type === 'Identifier' ? node.key.name : '';
      this.#declare(node.value, owner, true, name);
      this.#functions.get(node.value)!.property = name;
      return;
    }
    if (node.type === 'CallExpression' || node.type === 'NewExpression') {
      this.#declare(node.callee, owner, true);
      // a callback of somebody else's method is called by code that knows no generators
      const foreign = node.type === 'NewExpression' || node.callee.type === 'MemberExpression';
      for (const argument of node.arguments) this.#declare(argument, owner, !foreign);
      return;
    }
    if (node.type === 'ImportDeclaration') {
      for (const { local } of node.specifiers) this.#bind(undefined, local.name, null);
      return;
    }
    for (const child of childrenOf(node)) this.#declare(child, owner, true);
  }

  #declareFunction(
    node: FunctionNode,
    owner: FunctionInfo | undefined,
    convertible: boolean,
    hint: string,
  ): void {
    const name = node.id?.name ?? hint;
    const info: FunctionInfo = {
      node,
      name,
      parent: owner,
      locals: new Map(),
      parameters: new Set(node.params.flatMap(namesOf)),
      convertible: convertible && !node.async && !node.generator,
      property: undefined,
      yields: false,
      calls: false,
      temporaries: 0,
    };
    this.#functions.set(node, info);
    if (node.type === 'FunctionDeclaration') this.#bind(owner, name, info);
    for (const parameter of info.parameters) info.locals.set(parameter, null);
    for (const parameter of node.params) this.#declare(parameter, info, true);
    this.#declare(node.body, info, true);
  }

  #bind(owner: FunctionInfo | undefined, name: string, value: FunctionInfo | null): void {
    (owner?.locals ?? this.#topLevel).set(name, value);
  }

  /** What a name means where it is used: a function of this module, null for anything else. */
  #resolve(name: string, owner: FunctionInfo | undefined): FunctionInfo | null | 'parameter' {
    for (let scope = owner; scope !== undefined; scope = scope.parent) {
      const found = scope.locals.get(name);
      if (found === undefined) continue;
      return found === null && scope.parameters.has(name) ? 'parameter' : found;
    }
    return this.#topLevel.get(name) ?? null;
  }

  #isTopLevelName(name: string, owner: FunctionInfo | undefined): boolean {
    for (let scope = owner; scope !== undefined; scope = scope.parent) {
      if (scope.locals.has(name)) return false;
    }
    return true;
  }

  #isGlobal(name: string, owner: FunctionInfo | undefined): boolean {
    return this.#isTopLevelName(name, owner) && !this.#topLevel.has(name);
  }

  // --- who yields ---

  #markOnce(): boolean {
    let changed = false;
    for (const info of this.#functions.values()) {
      if (info.yields || !info.convertible) continue;
      if (!this.#reachesPoint(info.node.body, info)) continue;
      info.yields = true;
      if (info.property !== undefined) this.#methods.add(info.property);
      changed = true;
    }
    return changed;
  }

  #reachesPoint(node: AnyNode, owner: FunctionInfo): boolean {
    if (isFunction(node)) return false;
    if (node.type === 'CallExpression' && this.#classify(node, owner) !== 'plain') return true;
    return childrenOf(node).some((child) => this.#reachesPoint(child, owner));
  }

  /** What a call is, as far as the text says. */
  #classify(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
  ): 'primitive' | 'generator' | 'dynamic' | 'plain' {
    const { callee } = node;
    if (callee.type === 'Identifier') {
      const { name } = callee;
      if (this.#isTopLevelName(name, owner)) {
        if (this.#options.primitives.has(name)) return 'primitive';
        if (this.#options.generators?.has(name) === true) return 'generator';
      }
      const target = this.#resolve(name, owner);
      if (target === 'parameter') return this.#mayYield(node) ? 'dynamic' : 'plain';
      if (target !== null) return target.yields ? 'generator' : 'plain';
      const isVariable = !this.#isGlobal(name, owner);
      return isVariable && this.#options.anyFirstArgument === true ? 'dynamic' : 'plain';
    }
    if (callee.type !== 'MemberExpression' || callee.property.type !== 'Identifier') return 'plain';
    if (callee.computed) return this.#mayYield(node) ? 'dynamic' : 'plain';
    return this.#methods.has(callee.property.name) && this.#mayYield(node) ? 'dynamic' : 'plain';
  }

  /** By convention a kernel function's first argument is its CPU. */
  #mayYield(node: Extract<AnyNode, { type: 'CallExpression' }>): boolean {
    return this.#options.anyFirstArgument === true || passesCpu(node);
  }

  // --- the text ---

  #emitProgram(): string {
    const text = this.#emitChildren(this.#program, undefined);
    // imports first: they are hoisted anyway, and the runtime has none
    return `${RUNTIME}${text}`;
  }

  /** The source of a node, with what is inside rewritten. */
  #emit(node: AnyNode, owner: FunctionInfo | undefined): string {
    if (isFunction(node)) return this.#asLong(node, this.#emitFunction(node));
    if (node.type === 'CallExpression') return this.#asLong(node, this.#emitCall(node, owner));
    if (node.type === 'Identifier') return this.#names?.get(node.name) ?? node.name;
    if (node.type === 'Literal' && typeof node.value === 'string') return this.#emitString(node);
    if (node.type === 'Property' && this.#isOperation(node.value, owner)) {
      const local = (node.value as { name: string }).name;
      const key = this.#code.slice(node.key.start, node.key.end);
      return `${key}: ${wrapperOf(this.#options.primitives.get(local)!, local)}`;
    }
    if (node.type === 'Property' && isFunction(node.value) && node.method) {
      const info = this.#functions.get(node.value)!;
      if (info.yields) return `*${this.#emitChildren(node, owner)}`;
    }
    return this.#emitChildren(node, owner);
  }

  /** The text over as many lines as the node had: what follows stays where it is. */
  #asLong(node: AnyNode, text: string): string {
    const missing = linesIn(this.#code.slice(node.start, node.end)) - linesIn(text);
    return missing > 0 ? text + '\n'.repeat(missing) : text;
  }

  /** An operation of #memory as a value: whoever calls it does not know that it must ask for a turn. */
  #isOperation(node: AnyNode, owner: FunctionInfo | undefined): boolean {
    return (
      node.type === 'Identifier' &&
      this.#options.primitives.has(node.name) &&
      this.#isTopLevelName(node.name, owner)
    );
  }

  /** A string, unless it says where to import from. */
  #emitString(node: AnyNode): string {
    const text = this.#code.slice(node.start, node.end);
    if (!this.#importSources.has(node)) return text;
    const target = this.#options.importFrom?.get((node as { value: string }).value);
    return target === undefined ? text : JSON.stringify(target);
  }

  #emitChildren(node: AnyNode, owner: FunctionInfo | undefined): string {
    let text = '';
    let at = node.start;
    const children = childrenOf(node).sort((a, b) => a.start - b.start);
    for (const child of children) {
      if (child.start < at) continue; // shorthand properties name the same node twice
      if (node.type === 'MemberExpression' && !node.computed && child === node.property) continue;
      text += this.#code.slice(at, child.start) + this.#emit(child, owner);
      at = child.end;
    }
    return text + this.#code.slice(at, node.end);
  }

  #emitFunction(node: FunctionNode): string {
    const info = this.#functions.get(node)!;
    if (!info.yields) return this.#emitChildren(node, info);
    const bodyText = this.#emit(node.body, info);
    const names = Array.from({ length: info.temporaries }, (_, i) => `$${i}`);
    if (info.calls) names.push('$g', '$s');
    const temporaries = names.length === 0 ? '' : ` let ${names.join(', ')};`;
    if (node.type === 'ArrowFunctionExpression') {
      const parameters = node.params.map((parameter) => this.#emit(parameter, info)).join(', ');
      const body =
        node.body.type === 'BlockStatement'
          ? `{${temporaries}${bodyText.slice(1)}`
          : `{${temporaries} return ${bodyText}; }`;
      return `function* (${parameters}) ${body}`;
    }
    const head = this.#code.slice(node.start, node.body.start);
    const star = head.startsWith('function') ? head.replace('function', 'function*') : head;
    return `${star}{${temporaries}${bodyText.slice(1)}`;
  }

  #emitCall(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
  ): string {
    const kind = this.#classify(node, owner);
    if (kind === 'plain') return this.#emitChildren(node, owner);
    if (owner?.yields !== true) return this.#emitOutside(node, owner, kind);
    if (kind === 'primitive') return this.#emitPrimitive(node, owner);
    owner.calls = true;
    const inlined = kind === 'generator' ? this.#emitInlined(node, owner) : undefined;
    if (inlined !== undefined) return inlined;
    const made = `$g = ${this.#emitChildren(node, owner)}`;
    const run = `$s = $g.next(), $s.done ? $s.value : ($pending.push($g), yield)`;
    return kind === 'generator'
      ? `(${made}, ${run})`
      : `(${made}, $isGenerator($g) ? (${run}) : $g)`;
  }

  /** The body of the function that is called, if it is one of those and the caller can have it. */
  #emitInlined(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo,
  ): string | undefined {
    const body = this.#inlineBody(node, owner);
    if (body === undefined) return undefined;
    const texts: string[] = [];
    const names = new Map<string, string>();
    const keep = (name: string, value: AnyNode): void => {
      const temporary = `$${owner.temporaries++}`;
      texts.push(`${temporary} = ${this.#emit(value, owner)}`);
      names.set(name, temporary);
    };
    body.parameters.forEach((parameter, i) => {
      const argument = node.arguments[i]!;
      if (argument.type === 'Identifier') names.set(parameter, this.#emit(argument, owner));
      else keep(parameter, argument);
    });
    const outer = this.#names;
    this.#names = names;
    for (const part of body.parts) {
      if (part.kind === 'constant') keep(part.name, part.value);
      else if (part.kind === 'if')
        texts.push(`(${this.#emit(part.test, owner)}) && ${this.#emit(part.value, owner)}`);
      else texts.push(this.#emit(part.value, owner));
    }
    this.#names = outer;
    if (body.parts.at(-1)?.kind !== 'return') texts.push('undefined');
    const text = texts.join(', ');
    return text.includes('//') ? undefined : `(${text.replaceAll('\n', ' ')})`;
  }

  #inlineBody(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo,
  ): InlineBody | undefined {
    if (node.callee.type !== 'Identifier') return undefined;
    if (!INLINED.has(node.callee.name.replace(/\$\d+$/, ''))) return undefined;
    const target = this.#resolve(node.callee.name, owner);
    if (target === null || target === 'parameter') return undefined;
    if (target.node.type === 'ArrowFunctionExpression') return undefined;
    const body = straightBody(target.node);
    if (body?.parameters.length !== node.arguments.length) return undefined;
    if (this.#code.slice(node.start, node.end).includes('\n')) return undefined; // lines stay where they are
    return [...body.free].every((name) => this.#isTopLevelName(name, owner)) ? body : undefined;
  }

  /** A call where no generator can be: operations are made at once, what would yield is refused. */
  #emitOutside(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
    kind: string,
  ): string {
    if (kind !== 'generator' || node.callee.type !== 'Identifier') {
      return this.#emitChildren(node, owner);
    }
    return `$outside(${JSON.stringify(node.callee.name)})`;
  }

  #emitPrimitive(node: Extract<AnyNode, { type: 'CallExpression' }>, owner: FunctionInfo): string {
    const local = (node.callee as { name: string }).name;
    const name = this.#options.primitives.get(local)!;
    const before: string[] = [];
    const args = node.arguments.map((argument) => {
      const text = this.#emit(argument, owner);
      if (isPure(argument)) return text;
      const temporary = `$${owner.temporaries++}`;
      before.push(`${temporary} = ${text}`);
      return temporary;
    });
    const parts = [...before, ...turnsOf(name, args), `${local}(${args.join(', ')})`];
    return `(${parts.join(', ')})`;
  }
}

/** Where a module imports from: the strings that say so. */
function importsOf(program: Program): AnyNode[] {
  return program.body.flatMap((node) => {
    const isImport =
      node.type === 'ImportDeclaration' ||
      node.type === 'ExportNamedDeclaration' ||
      node.type === 'ExportAllDeclaration';
    return isImport && node.source != null ? [node.source] : [];
  });
}

/** What a module imports: from where, and under which names here (`*` of a whole namespace is left out). */
export function readImports(code: string): { from: string; names: Map<string, string> }[] {
  const program = parse(code, { ecmaVersion: 'latest', sourceType: 'module' });
  const found: { from: string; names: Map<string, string> }[] = [];
  for (const node of program.body) {
    if (node.type === 'ImportDeclaration') {
      const names = new Map<string, string>();
      for (const specifier of node.specifiers) {
        if (specifier.type === 'ImportDefaultSpecifier') names.set(specifier.local.name, 'default');
        if (specifier.type !== 'ImportSpecifier') continue;
        const { imported } = specifier;
        names.set(
          specifier.local.name,
          imported.type === 'Identifier' ? imported.name : String(imported.value),
        );
      }
      found.push({ from: String(node.source.value), names });
    } else if (
      (node.type === 'ExportNamedDeclaration' || node.type === 'ExportAllDeclaration') &&
      node.source != null
    ) {
      found.push({ from: String(node.source.value), names: new Map() });
    }
  }
  return found;
}

function linesIn(text: string): number {
  return text.split('\n').length;
}

function isFunction(node: AnyNode): node is FunctionNode {
  return (
    node.type === 'FunctionDeclaration' ||
    node.type === 'FunctionExpression' ||
    node.type === 'ArrowFunctionExpression'
  );
}

/** True if the call's first argument is a CPU, which by convention is so of every kernel function. */
function passesCpu(node: Extract<AnyNode, { type: 'CallExpression' }>): boolean {
  const [first] = node.arguments;
  return first?.type === 'Identifier' && /cpu$/i.test(first.name);
}

/** True if the expression may be computed twice, and no other task can change what it is. */
function isPure(node: AnyNode): boolean {
  switch (node.type) {
    case 'Identifier':
    case 'Literal':
    case 'ThisExpression':
      return true;
    case 'MemberExpression':
      return isPure(node.object) && (!node.computed || isPure(node.property));
    case 'BinaryExpression':
    case 'LogicalExpression':
      return isPure(node.left) && isPure(node.right);
    case 'UnaryExpression':
      return isPure(node.argument);
    case 'ConditionalExpression':
      return isPure(node.test) && isPure(node.consequent) && isPure(node.alternate);
    case 'ParenthesizedExpression':
      return isPure(node.expression);
    case 'CallExpression':
      return (
        node.callee.type === 'Identifier' &&
        PURE.has(node.callee.name.replace(/\$\d+$/, '')) &&
        node.arguments.every(isPure)
      );
    default:
      return false;
  }
}

/** Names that a pattern declares. */
function namesOf(pattern: AnyNode): string[] {
  switch (pattern.type) {
    case 'Identifier':
      return [pattern.name];
    case 'ObjectPattern':
      return pattern.properties.flatMap((property) =>
        namesOf(property.type === 'Property' ? property.value : property.argument),
      );
    case 'ArrayPattern':
      return pattern.elements.flatMap((element) => (element === null ? [] : namesOf(element)));
    case 'AssignmentPattern':
      return namesOf(pattern.left);
    case 'RestElement':
      return namesOf(pattern.argument);
    default:
      return [];
  }
}

function childrenOf(node: AnyNode): AnyNode[] {
  const children: AnyNode[] = [];
  for (const value of Object.values(node) as unknown[]) {
    if (Array.isArray(value)) {
      for (const item of value) if (isNode(item)) children.push(item);
    } else if (isNode(value)) {
      children.push(value);
    }
  }
  return children;
}

function isNode(value: unknown): value is AnyNode {
  return typeof value === 'object' && value !== null && 'type' in value && 'start' in value;
}
