// Files of a bundle → arrays; 64-bit hashes.
import {readFileSync} from "node:fs";

const HEADER = /^\{'descr': '([|<])([biuf])([1248])', 'fortran_order': False, 'shape': \(([\d, ]*)\), \} *\n$/;
const TYPES = {
  b1: Uint8Array, i1: Int8Array, u1: Uint8Array, i4: Int32Array, i8: BigInt64Array, u8: BigUint64Array,
  f2: Uint16Array, f4: Float32Array, f8: Float64Array,
};

/** Read an npy file: {data, width}, width of a row. */
export function readArray(path) {
  const raw = readFileSync(path);
  const length = raw.readUInt16LE(8), header = raw.toString("latin1", 10, 10 + length).match(HEADER);
  if (!header || raw.toString("latin1", 0, 8) !== "\x93NUMPY\x01\x00") throw new Error(`${path}: no npy file of a bundle`);
  const type = header[2] + header[3], shape = header[4].split(",").filter((n) => n.trim()).map(Number);
  const Type = TYPES[type], count = shape.reduce((a, b) => a * b, 1), from = 10 + length;
  if (!Type || raw.length !== from + count * Type.BYTES_PER_ELEMENT) throw new Error(`${path}: damaged`);
  const bytes = raw.buffer.slice(raw.byteOffset + from, raw.byteOffset + raw.length);
  return {data: type === "f2" ? Float32Array.from(new Type(bytes), fromHalf) : new Type(bytes), width: shape[1] ?? 1};
}

/** Float16 bits → a number. */
function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
}

/** The nearest whole number, ties to even. */
export function roundEven(x) {
  const low = Math.floor(x), rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}

/** A number as the nearest float16, ties to even. */
export function roundToHalf(x) {
  const step = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x) || 1)), -14) - 10);
  return roundEven(x / step) * step;
}

const u64 = (x) => BigInt.asUintN(64, x);

/** SplitMix64's finaliser of a BigInt of 64 bits. */
export function splitmix(x) {
  x = u64(x + 0x9e3779b97f4a7c15n);
  x = u64((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = u64((x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}

/** Mix hashes into one, 0 if any is 0. */
export function mix(hashes) {
  if (hashes.length === 1 || hashes.includes(0n)) return hashes.includes(0n) ? 0n : hashes[0];
  return splitmix(hashes.slice(1).reduce((found, other) => splitmix(found) ^ other, hashes[0])) || 1n;
}

const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d", "2c6a0b834d75fe19",
  "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0", "0123456789abcdef", "ea489fd61c02b753",
].map((row) => Array.from(row, (digit) => parseInt(digit, 16)));

/** BLAKE2b of 8 bytes (RFC 7693) of a text in UTF-8, as a little-endian number of 64 bits. */
function blake(text) {
  const message = Buffer.from(text, "utf8"), blocks = Math.max(1, Math.ceil(message.length / 128));
  const padded = Buffer.concat([message], blocks * 128), h = [IV[0] ^ 0x01010008n, ...IV.slice(1)];
  const turn = (x, by) => u64((x >> by) | (x << (64n - by)));
  for (let block = 0; block < blocks; block++) {
    const words = Array.from({length: 16}, (_, n) => padded.readBigUInt64LE(block * 128 + n * 8));
    const v = [...h, ...IV], last = block === blocks - 1;
    v[12] ^= BigInt(last ? message.length : (block + 1) * 128);
    if (last) v[14] = u64(~v[14]);
    for (const order of SIGMA) for (let n = 0; n < 8; n++) {
      const shift = n >> 2, [a, b, c, d] = [0, 1, 2, 3].map((row) => (n + row * shift) % 4 + row * 4);
      for (const [word, first, second] of [[order[2 * n], 32n, 24n], [order[2 * n + 1], 16n, 63n]]) {
        v[a] = u64(v[a] + v[b] + words[word]), v[d] = turn(v[d] ^ v[a], first);
        v[c] = u64(v[c] + v[d]), v[b] = turn(v[b] ^ v[c], second);
      }
    }
    for (let n = 0; n < 8; n++) h[n] ^= v[n] ^ v[n + 8];
  }
  return h[0];
}

/** The hash of an identifier, a whole number or text. */
export const hashId = (id) => typeof id === "string" ? blake(id) : splitmix(u64(BigInt(id)));

/** The hash by which derived features tell identifiers apart, 0 for null. */
export const hashValue = (id) => id === null ? 0n : hashId(id) || 1n;
