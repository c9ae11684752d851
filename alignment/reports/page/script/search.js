// Search in the texts that are loaded, by uFuzzy: every word must occur, in any order; "quoted" ones as they stand.

const finders = {
  latin: new uFuzzy({}),
  other: new uFuzzy({
    unicode: true,
    interSplit: "[^\\p{L}\\d']+",
    intraSplit: "\\p{Ll}\\p{Lu}",
    intraBound: "\\p{L}\\d|\\d\\p{L}|\\p{Ll}\\p{Lu}",
    intraChars: "[\\p{L}\\d']",
    intraContr: "'\\p{L}{1,2}\\b",
  }),
};
const found = { version: -1, haystack: [], rows: [], needle: null, mask: null };

/** All text of a row; null where it isn't loaded. */
function searched(row) {
  const all = messages(row);
  if (all === null) return null;
  return [...all.map(([, text]) => text), texts.chosen[row], texts.rejected[row]].join("\n");
}

/** Of each row whether it has the words; null: nothing is searched for. */
function matching(needle) {
  const wanted = needle.trim();
  if (!wanted) return null;
  if (found.version !== texts.version) {
    found.rows = Uint32Array.from(texts.rows);
    found.haystack = texts.rows.map(searched);
    found.version = texts.version;
    found.needle = null;
  }
  if (found.needle === wanted) return found.mask;
  const finder = /[^\u0000-\u024f]/.test(wanted) ? finders.other : finders.latin;
  let places = null;
  for (const word of wanted.match(/-?"[^"]*"|\S+/g) ?? [])
    places = finder.filter(found.haystack, word, places) ?? places;
  const mask = new Uint8Array(pairs.rows);
  for (const place of places ?? []) mask[found.rows[place]] = 1;
  found.needle = wanted;
  found.mask = mask;
  return mask;
}
