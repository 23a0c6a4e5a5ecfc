/**
 * Readers of option values: each returns the value or throws one clear line.
 *
 * @module
 */
import { InvalidArgumentError } from 'commander';
import { EXIT_USAGE, FaultlineError } from 'faultline';

/** An integer between two bounds. */
export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
    }
    return value;
  };
}

/** A number between two bounds. */
export function real(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** One of some words. */
export function oneOf<const T extends string>(...words: readonly T[]): (text: string) => T {
  return (text) => {
    const found = words.find((word) => word === text);
    if (found === undefined)
      throw new InvalidArgumentError(`It must be one of ${words.join(', ')}.`);
    return found;
  };
}

/** The name of a file. */
export function fileName(text: string): string {
  if (text === '') throw new InvalidArgumentError('It must be the name of a file.');
  return text;
}

/** Options that do not go together, or make no sense. */
export function badOptions(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_OPTION', message, EXIT_USAGE);
}
