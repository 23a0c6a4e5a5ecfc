/**
 * Loaded into npm before it packs: gzip that is quick, and not thorough.
 *
 * @module
 */
import { syncBuiltinESMExports } from 'node:module';
import zlib from 'node:zlib';

const { Gzip } = zlib as unknown as {
  readonly Gzip: new (options: zlib.ZlibOptions) => zlib.Gzip;
};

class QuickGzip extends Gzip {
  constructor(options: zlib.ZlibOptions) {
    super({ ...options, level: 1 });
  }
}

Object.assign(zlib, { Gzip: QuickGzip });
syncBuiltinESMExports();
