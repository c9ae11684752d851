// The columns of the pairs by name, and what can be asked of a row.

let pairs = null; // rows, ids, columns; null: the run kept no pairs

function numberOf(name, row) {
  const column = pairs.columns[name];
  return column?.kind === "number" ? column.values[row] : NaN;
}

function wordOf(name, row) {
  const column = pairs.columns[name];
  return column?.kind === "word" ? column.words[column.codes[row]] : "";
}

function has(name) {
  return pairs !== null && name in pairs.columns;
}

/** Which fields filters may name, and what each is. */
function fieldMeanings() {
  const own = {
    id: "the row's id",
    text: "prompt or either answer, of the texts that are loaded",
    flagged: "marked by you: flip, drop, reweight or note",
    note: "your note",
  };
  return { ...run.pairs.fields, ...own };
}

/** By id the number of a row: of several sets, the set stands before it. */
function rowNamed(name) {
  if (!rowNamed.rows) {
    rowNamed.rows = new Map();
    for (let row = 0; row < pairs.rows; row++) rowNamed.rows.set(pairName(row), row);
  }
  return rowNamed.rows.get(name) ?? null;
}
