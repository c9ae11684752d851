// What a reader marks: kept in the browser under the run's own key, given out as json lines for data.corrections.

const ACTIONS = { flip: "Label is wrong", drop: "Drop", reweight: "Reweight" };
// of which sets: held-out pairs count once each, and built ones are made anew of other samples
const ACTIONS_OF = { training: ["flip", "drop", "reweight"], "held out": ["flip", "drop"], built: [] };
const flags = { key: null, byPair: new Map(), kept: true };

function openFlags(key) {
  flags.key = `repalign flags ${key}`;
  try {
    const text = localStorage.getItem(flags.key);
    flags.byPair = new Map(text ? JSON.parse(text) : []);
  } catch {
    flags.kept = false;
  }
}

function keepFlags() {
  try {
    localStorage.setItem(flags.key, JSON.stringify([...flags.byPair]));
  } catch {
    if (flags.kept) say("This browser keeps nothing for this page: export your flags before you close it");
    flags.kept = false;
  }
}

/** The name under which a pair is marked: ids are unique within a set. */
function pairName(row) {
  return `${wordOf("set", row)}:${pairs.ids[row]}`;
}

function flagOf(row) {
  return flags.byPair.get(pairName(row)) ?? null;
}

function actionsOf(row) {
  return ACTIONS_OF[wordOf("set", row)];
}

/** Marks a pair, or changes the mark; with nothing left of it, it is gone. */
function mark(row, change) {
  const flag = { action: null, note: "", weight: null, ...flagOf(row), ...change };
  if (flag.action === "reweight" && flag.weight === null) flag.weight = 0.5;
  if (flag.action === null && !flag.note) flags.byPair.delete(pairName(row));
  else flags.byPair.set(pairName(row), flag);
  keepFlags();
}

/** The marks as json lines, as data.corrections reads them: id, source, action, weight, note. */
function flagLines() {
  const lines = [];
  for (let row = 0; row < pairs.rows; row++) {
    const flag = flags.byPair.size ? flagOf(row) : null;
    if (!flag) continue;
    const line = { id: pairs.ids[row], source: wordOf("source", row), set: wordOf("set", row), action: flag.action };
    if (flag.action === "reweight") line.weight = flag.weight;
    if (flag.note) line.note = flag.note;
    lines.push(JSON.stringify(line));
  }
  return lines;
}

function exportFlags() {
  const lines = flagLines();
  download("flags.jsonl", lines.map((line) => `${line}\n`).join(""), "application/jsonl");
  say(`${plural(lines.length, "flag")} exported`);
}
