/**
 * Struct layouts: an offset is written down once, and computed.
 *
 * A struct in shared memory is declared with `struct()`; what it yields is data (an offset for each
 * member) and a branded pointer type. Pointers and offsets are word indices into the machine's memory
 * (a word is 32 bits); 0 is NULL. The brands make the two usual mistakes fail to compile: a field of
 * another struct, and a bare number as a pointer.
 *
 *   export const Spinlock = struct('spinlock', { locked: word, name: word });
 *   export type Spinlock = Ptr<'spinlock'>;
 *   readOnce(cpu, lock, Spinlock.locked);
 *
 * Addresses of the emulated machine are 48 bits wide and kept as doubles, which hold them exactly, in
 * two words at an even index.
 *
 * @module
 */
import { bug } from '../base/bug.js';

/** A pointer to a struct. Unit: words. 0 is NULL. */
export type Ptr<S extends string> = number & { readonly struct: S };
/** A one-word member of struct S that holds a V. Unit: words from the start of the struct. */
export type Field<S extends string, V extends number = number> = number & {
  readonly field: S;
  readonly value: V;
};
/** A member of struct S that holds a 48-bit address, in bytes. */
export type AddressField<S extends string> = number & { readonly addressField: S };
/** An array of addresses inside struct S. */
export type AddressArrayField<S extends string> = number & { readonly addressArrayField: S };
/** An array of words inside struct S. */
export type ArrayField<S extends string> = number & { readonly arrayField: S };
/** A struct T embedded in struct S. */
export type Member<S extends string, T extends string> = number & {
  readonly memberOf: S;
  readonly memberStruct: T;
};

/** An address of the emulated machine. Unit: bytes. */
export type Va = number;

/** The null pointer of every struct. */
export const NULL = 0 as Ptr<never>;

/** Words in a cache line of 64 bytes: what two CPUs write apart must not share one. */
export const CACHELINE_WORDS = 16;

export interface WordMember {
  readonly kind: 'word';
}
export interface ArrayMember {
  readonly kind: 'words';
  readonly count: number;
}
export interface AddressMember {
  readonly kind: 'address';
}
export interface AddressArrayMember {
  readonly kind: 'addresses';
  readonly count: number;
}
export interface PointerMember<T extends string> {
  readonly kind: 'pointer';
  readonly to?: T;
}
export interface CachelineMember {
  readonly kind: 'cacheline';
}
export interface AnyLayout<S extends string = string> {
  readonly structName: S;
  readonly words: number;
  readonly alignment: number;
}
type MemberSpec =
  | WordMember
  | ArrayMember
  | AddressMember
  | AddressArrayMember
  | PointerMember<string>
  | CachelineMember
  | AnyLayout;

/** A 32-bit integer. */
export const word: WordMember = { kind: 'word' };
/** A 48-bit address (two words, aligned). */
export const address: AddressMember = { kind: 'address' };
/** Padding up to the next cache line; takes part in no access. */
export const cacheline: CachelineMember = { kind: 'cacheline' };
/** `count` 32-bit integers. */
export const words = (count: number): ArrayMember => ({ kind: 'words', count });
/** `count` addresses. */
export const addresses = (count: number): AddressArrayMember => ({ kind: 'addresses', count });
/** A pointer to struct T, which may be declared later or elsewhere. */
export const pointer = <T extends string>(): PointerMember<T> => ({ kind: 'pointer' });

type OffsetOf<S extends string, M> = M extends WordMember
  ? Field<S>
  : M extends ArrayMember
    ? ArrayField<S>
    : M extends AddressMember
      ? AddressField<S>
      : M extends AddressArrayMember
        ? AddressArrayField<S>
        : M extends PointerMember<infer T>
          ? Field<S, Ptr<T>>
          : M extends AnyLayout<infer T>
            ? Member<S, T>
            : never;

/** One member as a reader of dumps wants it. */
export interface MemberInfo {
  readonly name: string;
  readonly offset: number;
  readonly words: number;
  readonly type: string;
}

/** What `struct()` yields: an offset for each member, and the struct's own facts. */
export type StructLayout<S extends string, M> = {
  readonly [K in keyof M]: OffsetOf<S, M[K]>;
} & {
  readonly structName: S;
  /** Size, a multiple of the alignment. Unit: words. */
  readonly words: number;
  readonly alignment: number;
  readonly members: readonly MemberInfo[];
};

/** A struct as a reader of dumps wants it. */
export interface StructInfo extends AnyLayout {
  readonly members: readonly MemberInfo[];
}

/** Structs by their names, for readers of dumps; of two with one name, the one declared first. */
const declared = new Map<string, StructInfo>();

/** The structs that the modules loaded so far declare. */
export function declaredStructs(): ReadonlyMap<string, StructInfo> {
  return declared;
}

/** Facts of a layout, which a member may not hide. */
const RESERVED: ReadonlySet<string> = new Set(['structName', 'words', 'alignment', 'members']);

/** Declares a struct: members in order, each at the next index its alignment allows. */
export function struct<const S extends string, const M extends Record<string, MemberSpec>>(
  structName: S,
  members: M,
): StructLayout<S, M> {
  const offsets: Record<string, unknown> = {};
  const infos: MemberInfo[] = [];
  let end = 0;
  let alignment = 1;
  for (const [name, spec] of Object.entries(members)) {
    if (RESERVED.has(name)) bug(`struct ${structName}: the name ${name} is reserved`);
    const shape = shapeOf(spec);
    const offset = roundUp(end, shape.alignment);
    alignment = Math.max(alignment, shape.alignment);
    end = offset + shape.words;
    offsets[name] = offset;
    if (shape.words > 0) infos.push({ name, offset, words: shape.words, type: shape.type });
  }
  const layout = Object.freeze({
    ...offsets,
    structName,
    words: roundUp(end, alignment),
    alignment,
    members: Object.freeze(infos),
  }) as unknown as StructLayout<S, M>;
  if (!declared.has(structName)) declared.set(structName, layout);
  return layout;
}

interface Shape {
  readonly words: number;
  readonly alignment: number;
  readonly type: string;
}

function shapeOf(spec: MemberSpec): Shape {
  if (!('kind' in spec)) {
    return { words: spec.words, alignment: spec.alignment, type: spec.structName };
  }
  switch (spec.kind) {
    case 'word':
      return { words: 1, alignment: 1, type: 'word' };
    case 'pointer':
      return { words: 1, alignment: 1, type: 'pointer' };
    case 'words':
      return { words: spec.count, alignment: 1, type: `words(${spec.count})` };
    case 'address':
      return { words: 2, alignment: 2, type: 'address' };
    case 'addresses':
      return { words: 2 * spec.count, alignment: 2, type: `addresses(${spec.count})` };
    case 'cacheline':
      return { words: 0, alignment: CACHELINE_WORDS, type: 'cacheline' };
  }
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/** The struct embedded in `p`. @kernel &p->member */
export function member<S extends string, T extends string>(
  p: Ptr<S>,
  m: Member<NoInfer<S>, T>,
): Ptr<T> {
  return (p + m) as Ptr<T>;
}

/** The struct that `p` is embedded in. @kernel container_of */
export function containerOf<S extends string, T extends string>(
  p: Ptr<T>,
  m: Member<S, NoInfer<T>>,
): Ptr<S> {
  return (p - m) as Ptr<S>;
}

/** Element `index` of an array member, as a field. */
export function element<S extends string>(array: ArrayField<S>, index: number): Field<S> {
  return (array + index) as Field<S>;
}

/** Element `index` of an array of addresses, as a member. */
export function addressElement<S extends string>(
  array: AddressArrayField<S>,
  index: number,
): AddressField<S> {
  return (array + 2 * index) as unknown as AddressField<S>;
}

/**
 * An address in shared memory, whatever struct it is in. A search on a hot path takes its key so: V8
 * allocates a box for a double that is passed to a function it does not inline.
 */
export const AddressCell = struct('address_cell', { va: address });
export type AddressCell = Ptr<'address_cell'>;

/** The address member of `p`, as a cell. */
export function addressCell<S extends string>(p: Ptr<S>, m: AddressField<NoInfer<S>>): AddressCell {
  return (p + m) as AddressCell;
}
