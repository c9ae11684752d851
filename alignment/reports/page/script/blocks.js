// The data blocks of the page, as packed_columns.py writes them: base64, deflated, read once.

const HEAD_BYTES = 4;

async function unpacked(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The bytes of a block of this page; null if it has none of this name. The text is let go of. */
async function block(name) {
  const node = document.getElementById(`data-${name}`);
  if (!node) return null;
  const text = node.textContent;
  node.remove();
  return unpacked(text);
}

function asJson(bytes) {
  return bytes && JSON.parse(new TextDecoder().decode(bytes));
}

/** Columns by name: numbers as Float32Array, words as codes with their list, where 0 is none. */
function columnsOf(bytes) {
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(HEAD_BYTES, HEAD_BYTES + length)));
  let from = HEAD_BYTES + length;
  const columns = {};
  for (const { name, kind, words } of head.columns) {
    const size = kind === "number" ? 4 : 2;
    const plain = new Uint8Array(head.rows * size);
    for (let plane = 0; plane < size; plane++, from += head.rows) {
      for (let row = 0; row < head.rows; row++) plain[row * size + plane] = bytes[from + row];
    }
    columns[name] =
      kind === "number"
        ? { kind, values: new Float32Array(plain.buffer) }
        : { kind, codes: new Uint16Array(plain.buffer), words: ["", ...words] };
  }
  return { rows: head.rows, ids: head.ids, columns };
}
