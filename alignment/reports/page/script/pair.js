// One pair, opened beside the list: prompt, both answers, what every scorer says, your mark, and where the row is.

const look = { swapped: false, blind: false };
const FOLDED = 600; // letters of a prompt from which on it is folded
const SAID = [
  "gamma",
  "gap",
  "margin",
  "margin_raw",
  "score_gap",
  "against",
  "severity_gap",
  "confidence",
  "given_margin",
];

function showPair(place, row) {
  const title = element("h3", { id: "pair-title", tabindex: "-1" }, visible(pairs.ids[row]));
  const close = element(
    "button",
    { type: "button", class: "quiet", on: { click: () => go("pairs", { open: null }) } },
    "Close",
  );
  const head = element(
    "div",
    { class: "pair-head" },
    title,
    element("span", { class: "tag" }, wordOf("set", row)),
    wordOf("category", row) && element("span", { class: "tag" }, visible(wordOf("category", row))),
    close,
  );
  place.replaceChildren(
    head,
    marks(row),
    ...asked(row),
    answers(row),
    look.blind ? blindNote() : numbers(row),
    whence(row),
  );
}

function blindNote() {
  return element(
    "p",
    { class: "calm" },
    "Blind: sides are dealt by the row, and no score is shown. Press b to see who was chosen.",
  );
}

function marks(row) {
  const flag = flagOf(row);
  const redraw = () => {
    refreshList();
    showPair(document.getElementById("pair"), row);
  };
  const button = (action, words) =>
    element(
      "button",
      {
        type: "button",
        class: "mark",
        "aria-pressed": flag?.action === action ? "true" : "false",
        "data-action": action,
        on: {
          click: () => {
            mark(row, { action: flag?.action === action ? null : action });
            redraw();
            document.querySelector(`#pair [data-action=${action}]`).focus();
          },
        },
      },
      words,
    );
  const note = element("input", { type: "text", value: flag?.note ?? "", "aria-label": "Note", placeholder: "Note" });
  note.addEventListener("change", () => {
    mark(row, { note: note.value });
    refreshList();
  });
  const weight =
    flag?.action === "reweight" &&
    element("input", { type: "number", min: "0", step: "0.1", value: flag.weight, "aria-label": "Weight" });
  if (weight) weight.addEventListener("change", () => mark(row, { weight: Math.max(0, Number(weight.value) || 0) }));
  return element(
    "div",
    { class: "row marks", role: "group", "aria-label": "Your mark" },
    actionsOf(row).map((action) => button(action, ACTIONS[action])),
    weight,
    note,
  );
}

function asked(row) {
  const all = messages(row);
  if (all === null) return [];
  const earlier = all.slice(0, -1);
  const [role, text] = all[all.length - 1];
  const last = [element("span", { class: "role" }, role), quoted(text, "p")];
  const folded =
    text.length > FOLDED
      ? element(
          "details",
          { class: "prompt" },
          element("summary", null, `Prompt, ${plural(wordsIn(text), "word")}: `, visible(text.slice(0, 120)), "…"),
          last,
        )
      : element("div", { class: "prompt" }, last);
  const before =
    earlier.length &&
    element(
      "details",
      { class: "prompt" },
      element("summary", null, `${plural(earlier.length, "earlier message")}`),
      earlier.map(([who, said]) => [element("span", { class: "role" }, who), quoted(said, "p")]),
    );
  return [before, folded].filter(Boolean);
}

function wordsIn(text) {
  return text.match(/\S+/g)?.length ?? 0;
}

/** Which side stands left: as labelled, exchanged on a key, or dealt by the row where it is to be seen blind. */
function leftFirst(row) {
  const dealt = look.blind && ((row * 2654435761) >>> 16) % 2 === 1;
  return dealt === look.swapped;
}

function answers(row) {
  if (texts.chosen[row] === undefined) return unloaded(row);
  const [chosen, rejected] = differing(texts.chosen[row], texts.rejected[row]);
  const side = (name, words, letter) =>
    element(
      "div",
      { class: `answer ${look.blind ? "" : name}` },
      element(
        "h4",
        null,
        look.blind ? `Answer ${letter}` : name,
        !look.blind && element("span", { class: "facts" }, sideFacts(name, row)),
      ),
      element("p", { class: "quoted", dir: "auto" }, withDifferences(words)),
    );
  const left = leftFirst(row);
  const sides = left
    ? [
        ["chosen", chosen],
        ["rejected", rejected],
      ]
    : [
        ["rejected", rejected],
        ["chosen", chosen],
      ];
  return element("div", { class: "columns" }, side(...sides[0], "A"), side(...sides[1], "B"));
}

function sideFacts(name, row) {
  const facts = [
    ["severity", `${name}_severity`],
    ["helpful", `${name}_helpfulness`],
    ["words", `${name}_words`],
  ];
  return facts
    .map(([word, field]) => [word, numberOf(field, row)])
    .filter(([, value]) => !Number.isNaN(value))
    .map(([word, value]) => `${word} ${short(value)}`)
    .join(", ");
}

function unloaded(row) {
  const number = numberOf("part", row);
  const name = `pairs-${number}.js`;
  if (texts.missing.has(name)) {
    return element(
      "p",
      { class: "notice" },
      `The texts of this pair are in ${name}, in the folder report of the run, which isn't beside this page.`,
    );
  }
  loadPart(number).then(() => showExplorer());
  return element("p", { class: "calm" }, `Loading ${name}…`);
}

function numbers(row) {
  const known = SAID.filter((field) => has(field) && !Number.isNaN(numberOf(field, row)));
  if (!known.length)
    return element("p", { class: "calm" }, "No stage of this run says anything of this pair in numbers.");
  return element(
    "div",
    { class: "strips" },
    known.map((field) =>
      element(
        "div",
        { class: "strip" },
        element("span", { class: "strip-name", title: run.pairs.fields[field] }, field),
        strip(field, row),
        element(
          "span",
          { class: `strip-value${numberOf(field, row) < 0 ? " bad-text" : ""}` },
          short(numberOf(field, row)),
        ),
      ),
    ),
  );
}

/** Where the pair lies among all pairs of its set: their density, and a mark. Bins of margins are its steps. */
function strip(field, row) {
  const [width, height] = [220, 26];
  const values = pairs.columns[field].values;
  strip.known ??= new Map();
  if (!strip.known.has(field)) {
    const [low, high] = field === "gamma" || field === "confidence" ? [0, 1] : extent(values);
    const counts = new Uint32Array(44);
    for (const value of values)
      if (!Number.isNaN(value)) counts[Math.min(43, Math.floor(((value - low) / (high - low)) * 44))]++;
    strip.known.set(field, { low, high, counts, most: Math.max(...counts) });
  }
  const { low, high, counts, most } = strip.known.get(field);
  const at = scale(low, high, 1, width - 1);
  const picture = drawn("svg", {
    class: "strip-chart",
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  counts.forEach((count, bin) => {
    const tall = (height - 4) * Math.sqrt(count / most);
    picture.append(drawn("rect", { class: "strip-bar", x: bin * 5, y: height - tall, width: 4.4, height: tall }));
  });
  if (low < 0 && high > 0) picture.append(drawn("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: height }));
  const x = at(values[row]);
  picture.append(drawn("line", { class: "strip-mark", x1: x, x2: x, y1: 0, y2: height }));
  return picture;
}

/** The folder of the run, as far as the page's own place says. */
function runFolder() {
  if (location.protocol !== "file:") return `runs/${run.recipe}`;
  const folder = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "");
  return folder.endsWith("/report") ? folder.slice(0, -7) : folder;
}

/** Text for a shell, in quotes that nothing gets out of; letters beyond ASCII as escapes of Python. */
function forShell(text) {
  return `'${text.replaceAll("'", `'"'"'`)}'`;
}

function forPython(text) {
  return JSON.stringify(text).replace(
    /[^\x20-\x7e]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function whence(row) {
  const file = run.pairs.files[wordOf("set", row)];
  const id = pairs.ids[row].replace(/#\d+$/, "");
  const path = forPython(`${runFolder()}/${file}`);
  const reader = file.endsWith(".arrow")
    ? `import pyarrow as pa; t = pa.ipc.open_file(${path}).read_all()`
    : `import pyarrow.parquet as pq; t = pq.read_table(${path})`;
  const program = `${reader}; print([row for row in t.to_pylist() if row["id"] == ${forPython(id)}])`;
  return element(
    "details",
    { class: "whence" },
    element("summary", null, "The row, and how to print it"),
    element(
      "p",
      null,
      "id ",
      element("code", null, visible(pairs.ids[row])),
      ", source ",
      element("code", null, visible(wordOf("source", row) || "unknown")),
      ", file ",
      element("code", null, file),
    ),
    copyable(`python -c ${forShell(program)}`, "Command"),
  );
}
