// Float32 arrays as an npz file: a zip archive of .npy files, stored.
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });
function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
const pack = (layout, ...values) => {
  const out = new DataView(new ArrayBuffer([...layout].reduce((sum, one) => sum + Number(one), 0)));
  let at = 0;
  [...layout].forEach((size, i) => { size === "2" ? out.setUint16(at, values[i], true) : out.setUint32(at, values[i], true); at += Number(size); });
  return new Uint8Array(out.buffer);
};
function npy(shape, bytes) {
  const words = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`, length = Math.ceil((words.length + 11) / 64) * 64 - 10;
  const out = new Uint8Array(10 + length + bytes.length);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, length & 255, length >> 8]);
  out.set(new TextEncoder().encode(words.padEnd(length - 1) + "\n"), 10);
  out.set(bytes, 10 + length);
  return out;
}
export function npz(arrays) {
  const parts = [], directory = [];
  let at = 0;
  for (const [name, shape, bytes] of arrays) {
    const body = npy(shape, bytes), title = new TextEncoder().encode(`${name}.npy`), sum = crc(body);
    const about = [20, 0x800, 0, 0, 33, sum, body.length, body.length, title.length, 0];
    const local = pack("4222224442" + "2", 0x04034b50, ...about);
    directory.push(pack("42222224442" + "222244", 0x02014b50, 20, ...about, 0, 0, 0, 0, at), title);
    parts.push(local, title, body);
    at += local.length + title.length + body.length;
  }
  const size = directory.reduce((sum, one) => sum + one.length, 0);
  return new Blob([...parts, ...directory, pack("42222442", 0x06054b50, 0, 0, arrays.length, arrays.length, size, at, 0)], { type: "application/zip" });
}
