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

import { type InlineBody, INLINED, straightBody } from './rewrite-inline.js';
import { turnsOf, wrapperOf } from './rewrite-primitives.js';
import {
  childrenOf,
  type FunctionNode,
  importsOf,
  isCpu,
  isFunction,
  isPure,
  linesIn,
  namesOf,
  passesCpu,
} from './rewrite-syntax.js';

/** Methods of the language's own that call what they are given. */
const CALLING_BACK = new Set(
  'every filter find findIndex findLast findLastIndex flatMap forEach map reduce reduceRight replace replaceAll some sort toSorted then catch finally'.split(
    ' ',
  ),
);

/** What a rewritten module needs; the engine provides it. */
export const RUNTIME = `
const $turn = (cpu, kind, at, count) => cpu.turnstile !== null && cpu.turnstile.mustYield(cpu, kind, at, count);
const $isGenerator = (value) => typeof value === 'object' && value !== null && value[Symbol.toStringTag] === 'Generator';
const $pending = (globalThis[Symbol.for('faultline.pending')] ??= []);
const $outside = (name) => { throw new Error(name + ' is called where the virtual engine cannot follow: in a callback, a class, a getter, a generator or an async function'); };
const $plain = (value, name) => $isGenerator(value) ? $outside(name) : value;
`.replaceAll('\n', ' ');

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
  /** Of imported namespaces, by their local names: the names in them that hold generator functions. */
  readonly namespaces?: ReadonlyMap<string, ReadonlySet<string>>;
  /**
   * Where code of a user's comes from. It need not call its CPU `cpu`: any call of a parameter or of such a method
   * may yield. And what the text does not say is looked at when it runs: nothing that yields may be lost.
   */
  readonly userModule?: string;
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

class Rewriter {
  readonly #code: string;
  readonly #options: RewriteOptions;
  readonly #program: Program;
  readonly #functions = new Map<AnyNode, FunctionInfo>();
  readonly #topLevel = new Map<string, FunctionInfo | null>();
  readonly #methods: Set<string>;
  /** Properties of object literals that are given a function by its name. */
  readonly #aliases: { method: string; name: string; owner: FunctionInfo | undefined }[] = [];
  readonly #importSources: ReadonlySet<AnyNode>;
  readonly #isUsers: boolean;
  /** What parameters and constants are called while a function's body is put in the place of its call. */
  #names: ReadonlyMap<string, string> | undefined;

  constructor(code: string, options: RewriteOptions) {
    this.#code = code;
    this.#options = options;
    this.#isUsers = options.userModule !== undefined;
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
    if (
      node.type === 'Property' &&
      node.key.type === 'Identifier' &&
      node.value.type === 'Identifier'
    ) {
      this.#aliases.push({ method: node.key.name, name: node.value.name, owner });
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
    for (const { method, name, owner } of this.#aliases) {
      const target = this.#resolve(name, owner);
      if (target === null || target === 'parameter' || !target.yields) continue;
      if (this.#methods.has(method)) continue;
      this.#methods.add(method);
      changed = true;
    }
    return changed;
  }

  #reachesPoint(node: AnyNode, owner: FunctionInfo): boolean {
    if (isFunction(node)) return false;
    if (node.type === 'CallExpression') {
      const kind = this.#classify(node, owner);
      if (kind !== 'plain' && kind !== 'unknown') return true;
    }
    return childrenOf(node).some((child) => this.#reachesPoint(child, owner));
  }

  /** What a call is, as far as the text says. */
  #classify(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
  ): 'primitive' | 'generator' | 'dynamic' | 'unknown' | 'plain' {
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
      return isVariable && this.#isUsers ? 'dynamic' : 'plain';
    }
    if (this.#isUsers && callee.type !== 'Super') return this.#classifyUsers(node, owner);
    if (callee.type !== 'MemberExpression' || callee.property.type !== 'Identifier') return 'plain';
    if (callee.computed) return this.#mayYield(node) ? 'dynamic' : 'plain';
    return this.#methods.has(callee.property.name) && this.#mayYield(node) ? 'dynamic' : 'plain';
  }

  /** A call of a user's that is not of a name. */
  #classifyUsers(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
  ): 'generator' | 'dynamic' | 'unknown' | 'plain' {
    const { callee } = node;
    if (node.arguments.some(isCpu)) return 'dynamic';
    if (callee.type !== 'MemberExpression') return 'unknown';
    if (callee.computed || callee.property.type !== 'Identifier') return 'dynamic';
    const { name } = callee.property;
    if (callee.object.type === 'Identifier') {
      const of = callee.object.name;
      if (this.#isGlobal(of, owner)) return 'plain';
      const known = this.#isTopLevelName(of, owner) && this.#options.namespaces?.get(of);
      if (known) return known.has(name) ? 'generator' : 'plain';
    }
    return this.#methods.has(name) ? 'dynamic' : 'unknown';
  }

  /** By convention a kernel function's first argument is its CPU. */
  #mayYield(node: Extract<AnyNode, { type: 'CallExpression' }>): boolean {
    return this.#isUsers || passesCpu(node);
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
    if (node.type === 'MetaProperty' && node.meta.name === 'import' && this.#isUsers) {
      return `({ url: ${JSON.stringify(this.#options.userModule)} })`;
    }
    if (node.type === 'ImportExpression' && this.#isUsers) {
      const line = linesIn(this.#code.slice(0, node.start));
      throw new SyntaxError(`line ${line}: import() cannot be followed`);
    }
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
      this.#refuseCallsIn(node);
      const parameters = node.params.map((parameter) => this.#emit(parameter, info)).join(', ');
      const body =
        node.body.type === 'BlockStatement'
          ? `{${temporaries}${bodyText.slice(1)}`
          : `{${temporaries} return ${bodyText}; }`;
      return `function* (${parameters}) ${body}`;
    }
    const head = this.#code.slice(node.start, node.body.start);
    this.#refuseCallsIn(node);
    const star = head.startsWith('function') ? head.replace('function', 'function*') : head;
    return `${star}{${temporaries}${bodyText.slice(1)}`;
  }

  /** A generator's parameters are computed before it runs. @throws SyntaxError if a default value may yield */
  #refuseCallsIn({ params }: FunctionNode): void {
    const calls = (node: AnyNode): boolean =>
      !isFunction(node) && (node.type === 'CallExpression' || childrenOf(node).some(calls));
    const bad = params.find(calls);
    if (bad === undefined) return;
    const line = linesIn(this.#code.slice(0, bad.start));
    throw new SyntaxError(`line ${line}: a default value of a parameter calls a function`);
  }

  #emitCall(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
  ): string {
    const kind = this.#classify(node, owner);
    const lost = this.#isUsers ? this.#lostCallback(node, owner) : undefined;
    if (lost !== undefined) return `$outside(${JSON.stringify(lost)})`;
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

  /** A function that yields and is handed to code that would call it without knowing that. */
  #lostCallback(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
  ): string | undefined {
    const { callee } = node;
    if (callee.type !== 'MemberExpression' || callee.property.type !== 'Identifier')
      return undefined;
    if (!CALLING_BACK.has(callee.property.name)) return undefined;
    for (const argument of node.arguments) {
      if (argument.type !== 'Identifier') continue;
      const target = this.#resolve(argument.name, owner);
      if (target !== null && target !== 'parameter' && target.yields) return argument.name;
    }
    return undefined;
  }

  /** A call where no generator can be: operations are made at once, what would yield is refused. */
  #emitOutside(
    node: Extract<AnyNode, { type: 'CallExpression' }>,
    owner: FunctionInfo | undefined,
    kind: string,
  ): string {
    if (this.#isUsers && owner !== undefined) {
      const { start, end } = node.callee;
      const name = this.#code.slice(start, end).replaceAll(/\s+/g, ' ');
      return `$plain(${this.#emitChildren(node, owner)}, ${JSON.stringify(name)})`;
    }
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
