// The files of a zip, read in the browser a part at a time: the archive is never in memory as a whole.

const END = 0x06054b50, ENTRY = 0x02014b50, TAIL = 65557;

/** The files of the archive, each with its path and a function that unpacks it. Rejects if it is no zip that we read. */
export async function entries(archive) {
  const tail = new DataView(await archive.slice(-TAIL).arrayBuffer());
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("not a zip");
  const size = tail.getUint32(end + 12, true), start = tail.getUint32(end + 16, true);
  if (start === 0xffffffff) throw new Error("zip64");
  const view = new DataView(await archive.slice(start, start + size).arrayBuffer());
  const found = [];
  for (let at = 0; at + 46 <= view.byteLength && view.getUint32(at, true) === ENTRY;) {
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const name = new Uint8Array(view.buffer, at + 46, nameLength);
    const flags = view.getUint16(at + 8, true), method = view.getUint16(at + 10, true);
    const packed = view.getUint32(at + 20, true), offset = view.getUint32(at + 42, true);
    if (flags & 1 || (method !== 0 && method !== 8)) throw new Error("encrypted, or packed in another way");
    const path = decoded(name).replaceAll("\\", "/");
    const length = view.getUint32(at + 24, true);
    if (!path.endsWith("/")) found.push({path, size: length, read: () => unpack(archive, offset, packed, method, length)});
    at += 46 + nameLength + extra + comment;
  }
  return found;
}

/** The name as text: in UTF-8, which some programs write without the flag that says so, or else as Windows has it. */
function decoded(name) {
  try { return new TextDecoder("utf-8", {fatal: true}).decode(name); } catch { return new TextDecoder("windows-1252").decode(name); }
}

async function unpack(archive, offset, packed, method, length) {
  const head = new DataView(await archive.slice(offset, offset + 30).arrayBuffer());
  const start = offset + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const raw = archive.slice(start, start + packed);
  if (method === 0) return raw;
  const reader = raw.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  for (let size = 0; ;) {
    const {done, value} = await reader.read();
    if (done) return new Blob(parts);
    size += value.byteLength;
    if (size > length) throw new Error("larger than it says"); // a bomb
    parts.push(value);
  }
}
