/**
 * What rewriting asks of a syntax tree.
 *
 * @module
 */
import { type AnyNode, parse, type Program } from 'acorn';

export type FunctionNode = Extract<
  AnyNode,
  { type: 'FunctionDeclaration' | 'FunctionExpression' | 'ArrowFunctionExpression' }
>;

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

/** Where a module imports from: the strings that say so. */
export function importsOf(program: Program): AnyNode[] {
  return program.body.flatMap((node) => {
    const isImport =
      node.type === 'ImportDeclaration' ||
      node.type === 'ExportNamedDeclaration' ||
      node.type === 'ExportAllDeclaration';
    return isImport && node.source != null ? [node.source] : [];
  });
}

/** Stands for all a module exports, as one object. */
export const WHOLE = '*';

/** What a module imports: from where, and under which names here what, or WHOLE. */
export function readImports(code: string): { from: string; names: Map<string, string> }[] {
  const program = parse(code, { ecmaVersion: 'latest', sourceType: 'module' });
  const found: { from: string; names: Map<string, string> }[] = [];
  for (const node of program.body) {
    if (node.type === 'ImportDeclaration') {
      const names = new Map<string, string>();
      for (const specifier of node.specifiers) {
        if (specifier.type === 'ImportDefaultSpecifier') names.set(specifier.local.name, 'default');
        if (specifier.type === 'ImportNamespaceSpecifier') names.set(specifier.local.name, WHOLE);
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

export function linesIn(text: string): number {
  return text.split('\n').length;
}

export function isFunction(node: AnyNode): node is FunctionNode {
  return (
    node.type === 'FunctionDeclaration' ||
    node.type === 'FunctionExpression' ||
    node.type === 'ArrowFunctionExpression'
  );
}

/** True if the call's first argument is a CPU, which by convention is so of every kernel function. */
export function passesCpu(node: Extract<AnyNode, { type: 'CallExpression' }>): boolean {
  const [first] = node.arguments;
  return first !== undefined && isCpu(first);
}

export function isCpu(node: AnyNode): boolean {
  return node.type === 'Identifier' && /cpu$/i.test(node.name);
}

/** True if the expression may be computed twice, and no other task can change what it is. */
export function isPure(node: AnyNode): boolean {
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
export function namesOf(pattern: AnyNode): string[] {
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

export function childrenOf(node: AnyNode): AnyNode[] {
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
