/**
 * Which functions rewriting may put in the place of their calls: straight ones, whose bodies can be written
 * as one expression.
 *
 * A call of a generator costs ten times what a plain one does, and most calls of a schedule are of locks.
 *
 * @module
 */
import type { AnyNode, Expression } from 'acorn';

/** One part of a body. */
export type InlinePart =
  | { readonly kind: 'expression'; readonly value: Expression }
  | { readonly kind: 'constant'; readonly name: string; readonly value: Expression }
  | { readonly kind: 'if'; readonly test: Expression; readonly value: Expression }
  | { readonly kind: 'return'; readonly value: Expression };

export interface InlineBody {
  readonly parameters: readonly string[];
  readonly parts: readonly InlinePart[];
  /** Names it uses that are not its own. */
  readonly free: ReadonlySet<string>;
}

/** Functions that are inlined if they are straight. What is made in them is seen to be made by their callers. */
export const INLINED: ReadonlySet<string> = new Set([
  'spinLock',
  'spinUnlock',
  'archSpinLock',
  'archSpinUnlock',
]);

/** What may occur in an expression of such a function. */
const SIMPLE: ReadonlySet<string> = new Set([
  'BinaryExpression',
  'CallExpression',
  'Identifier',
  'Literal',
  'LogicalExpression',
  'MemberExpression',
  'ParenthesizedExpression',
  'UnaryExpression',
  'UpdateExpression',
]);

/** The function's body as parts of an expression; undefined if it is not straight. */
export function straightBody(
  node: Extract<AnyNode, { type: 'FunctionDeclaration' | 'FunctionExpression' }>,
): InlineBody | undefined {
  const parameters = node.params.flatMap((parameter) =>
    parameter.type === 'Identifier' ? [parameter.name] : [],
  );
  if (parameters.length < node.params.length) return undefined;
  const parts: InlinePart[] = [];
  for (const statement of node.body.body) {
    const part = partOf(statement);
    if (part === undefined || parts.at(-1)?.kind === 'return') return undefined;
    parts.push(part);
  }
  const used = new Set<string>();
  for (const part of parts) {
    if (!isSimple(part.value, used)) return undefined;
    if (part.kind === 'if' && !isSimple(part.test, used)) return undefined;
  }
  const own = new Set(parameters);
  for (const part of parts) if (part.kind === 'constant') own.add(part.name);
  return { parameters, parts, free: new Set([...used].filter((name) => !own.has(name))) };
}

function partOf(statement: AnyNode): InlinePart | undefined {
  switch (statement.type) {
    case 'ExpressionStatement':
      return { kind: 'expression', value: statement.expression };
    case 'VariableDeclaration': {
      const [first] = statement.declarations;
      if (statement.kind !== 'const' || statement.declarations.length !== 1) return undefined;
      if (first?.id.type !== 'Identifier' || first.init == null) return undefined;
      return { kind: 'constant', name: first.id.name, value: first.init };
    }
    case 'IfStatement': {
      const { consequent, alternate, test } = statement;
      if (alternate != null || consequent.type !== 'ExpressionStatement') return undefined;
      return { kind: 'if', test, value: consequent.expression };
    }
    case 'ReturnStatement':
      return statement.argument == null ? undefined : { kind: 'return', value: statement.argument };
    default:
      return undefined;
  }
}

/** True if nothing in the expression needs a scope or a line of its own; adds the names it uses. */
function isSimple(node: AnyNode, used: Set<string>): boolean {
  if (!SIMPLE.has(node.type)) return false;
  switch (node.type) {
    case 'Identifier':
      used.add(node.name);
      return true;
    case 'MemberExpression':
      return isSimple(node.object, used) && (!node.computed || isSimple(node.property, used));
    case 'CallExpression':
      return [node.callee, ...node.arguments].every((child) => isSimple(child, used));
    case 'BinaryExpression':
    case 'LogicalExpression':
      return isSimple(node.left, used) && isSimple(node.right, used);
    case 'UpdateExpression':
      return node.argument.type === 'MemberExpression' && isSimple(node.argument, used);
    case 'UnaryExpression':
      return isSimple(node.argument, used);
    case 'ParenthesizedExpression':
      return isSimple(node.expression, used);
    default:
      return true;
  }
}
