// A zip of pictures, made in the browser: files are stored as they are, as pictures are compressed
// already. The format is PKWARE's APPNOTE 6.3, with the few records that a plain archive needs.

const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50];
const UTF8_NAMES = 0x0800;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

export function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

// `files`: [{name, bytes}]; returns a Blob. Names that are there already get a number.
export function zip(files) {
  const [parts, central, taken] = [[], [], new Set()];
  let offset = 0;
  for (const file of files) {
    const name = new TextEncoder().encode(unused(file.name, taken));
    const facts = [20, UTF8_NAMES, 0, 0, 0x21];
    const sizes = [crc32(file.bytes), file.bytes.length, file.bytes.length];
    const local = record(LOCAL, facts, sizes, [name.length, 0]);
    parts.push(local, name, file.bytes);
    central.push(record(CENTRAL, [20, ...facts], sizes, [name.length, 0, 0, 0, 0], [0, offset]), name);
    offset += local.length + name.length + file.bytes.length;
  }
  const size = central.reduce((sum, part) => sum + part.length, 0);
  const end = record(END, [0, 0, files.length, files.length], [size, offset], [0]);
  return new Blob([...parts, ...central, end], { type: "application/zip" });
}

function unused(name, taken) {
  const dot = name.lastIndexOf(".");
  let free = name;
  for (let number = 2; taken.has(free); number += 1) free = dot > 0 ? `${name.slice(0, dot)} (${number})${name.slice(dot)}` : `${name} (${number})`;
  taken.add(free);
  return free;
}

// A signature, then by turns numbers of two and of four bytes, least byte first.
function record(signature, ...groups) {
  const width = (index) => (index % 2 ? 4 : 2);
  const length = groups.reduce((sum, group, index) => sum + group.length * width(index), 4);
  const view = new DataView(new ArrayBuffer(length));
  view.setUint32(0, signature, true);
  let at = 4;
  groups.forEach((group, index) => {
    for (const value of group) {
      if (width(index) === 2) view.setUint16(at, value, true);
      else view.setUint32(at, value, true);
      at += width(index);
    }
  });
  return new Uint8Array(view.buffer);
}

// Hands the archive to the browser as a download.
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
