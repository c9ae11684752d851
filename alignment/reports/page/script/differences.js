// Which words of two answers are in one alone, by the longest common subsequence.

const MOST_CELLS = 4_000_000; // of its table; longer answers are compared by what they begin and end with

/** Words and what stands between them, so that joined they are the text again. */
function wordsOf(text) {
  return text.match(/\s+|[\p{L}\p{N}'’]+|[^\s\p{L}\p{N}]/gu) ?? [];
}

/** Of each side its words as [text, is it there alone]. */
function differing(one, other) {
  const [a, b] = [wordsOf(one), wordsOf(other)];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const [rows, columns] = [a.length - head - tail, b.length - head - tail];
  const shared = [new Uint8Array(a.length).fill(1), new Uint8Array(b.length).fill(1)];
  shared[0].fill(0, head, a.length - tail);
  shared[1].fill(0, head, b.length - tail);
  if (rows * columns <= MOST_CELLS && rows && columns) common(a, b, head, rows, columns, shared);
  const blank = (word) => word.trim() === "";
  const marked = (words, kept) =>
    words.map((word, at) => {
      // between two words that are marked, the space is, too
      const alone = (place) => place >= 0 && place < words.length && !kept[place] && !blank(words[place]);
      return [word, blank(word) ? alone(at - 1) && alone(at + 1) : alone(at)];
    });
  return [marked(a, shared[0]), marked(b, shared[1])];
}

function common(a, b, head, rows, columns, shared) {
  const width = columns + 1;
  const length = new Uint16Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      const below = length[(i + 1) * width + j];
      const right = length[i * width + j + 1];
      length[i * width + j] =
        a[head + i] === b[head + j] ? length[(i + 1) * width + j + 1] + 1 : Math.max(below, right);
    }
  }
  for (let i = 0, j = 0; i < rows && j < columns;) {
    if (a[head + i] === b[head + j]) {
      shared[0][head + i++] = 1;
      shared[1][head + j++] = 1;
    } else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
    else j++;
  }
}

/** An answer with the words that the other one lacks marked: underlined, too, for whoever sees no colours. */
function withDifferences(words) {
  const nodes = [];
  for (const [word, alone] of words) {
    const last = nodes[nodes.length - 1];
    if (last && last.alone === alone) last.text += word;
    else nodes.push({ text: word, alone });
  }
  return nodes.map(({ text, alone }) => (alone ? element("mark", null, visible(text)) : visible(text)));
}
