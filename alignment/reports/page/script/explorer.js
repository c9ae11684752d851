// The explorer of pairs: what is searched, filtered and sorted lies in the address, and the list follows it.

let list = null;
const shown = { settings: null, rows: null, bring: false }; // bring: the pair lies below the list, and is scrolled to
const WAIT = 120; // milliseconds after a letter
const COLUMNS = ["gamma", "gap", "margin", "score_gap", "severity_gap", "words_gap"];
const MOST_COLUMNS = 3;

function buildExplorer(place) {
  if (!pairs) {
    place.replaceChildren(
      element("h2", null, "Pairs"),
      element("p", null, "This run kept no pairs: annotate, fit_reward, build_pairs and inspect do."),
    );
    return;
  }
  const later = (act) => {
    let timer;
    return () => {
      clearTimeout(timer);
      timer = setTimeout(act, WAIT);
    };
  };
  const input = (id, label, hint, field) => {
    const box = element("input", {
      id,
      type: "search",
      placeholder: hint,
      autocomplete: "off",
      spellcheck: "false",
      "aria-describedby": "explorer-said",
    });
    box.addEventListener(
      "input",
      later(() => go("pairs", { [field]: box.value }, false)),
    );
    box.addEventListener("change", () => go("pairs", { [field]: box.value }));
    return element("label", { class: `field ${field}` }, element("span", null, label), box);
  };
  const fields = Object.keys(run.pairs.fields).filter((field) => has(field));
  const sort = element(
    "select",
    { id: "sort" },
    element("option", { value: "" }, "most doubtful first"),
    fields.map((field) => element("option", { value: field }, field)),
  );
  sort.addEventListener("change", () => go("pairs", { sort: sort.value }));
  const order = element(
    "button",
    {
      type: "button",
      id: "order",
      class: "quiet",
      on: { click: () => go("pairs", { order: address().settings.get("order") === "down" ? "" : "down" }) },
    },
    "Ascending",
  );
  const box = element("div", { id: "list", class: "list", role: "listbox", tabindex: "0", "aria-label": "Pairs" });
  place.replaceChildren(
    element("h2", { class: "out-of-sight" }, "Pairs"),
    element(
      "div",
      { class: "controls", role: "search" },
      input("search", "Search", "words in prompt or answers", "search"),
      input("filter", "Filter", has("gamma") ? 'gamma < 0.2 and category = "S2"' : "chosen_words < 20", "filter"),
      element("label", { class: "field" }, element("span", null, "Sort"), sort),
      order,
      element("button", { type: "button", id: "export", on: { click: exportFlags } }, "Export flags"),
      element("button", { type: "button", class: "quiet", on: { click: () => showKeys() } }, "Keys"),
    ),
    fieldList(),
    element("p", { id: "explorer-said", class: "explorer-said", role: "status" }),
    element("div", { id: "unloaded", class: "row" }),
    element(
      "div",
      { class: "explorer" },
      element(
        "div",
        { class: "list-side" },
        element("div", { id: "heads", class: "heads", role: "group", "aria-label": "Sort by" }),
        box,
      ),
      element("section", { id: "pair", class: "pair", "aria-labelledby": "pair-title" }),
    ),
  );
  list = new VirtualList(box, renderRow, (at) => {
    shown.bring = matchMedia("(max-width: 60rem)").matches;
    openAt(at);
  });
}

function fieldList() {
  const rows = Object.entries(fieldMeanings()).map(([name, says]) => [element("code", null, name), says]);
  return element(
    "details",
    { class: "fields" },
    element("summary", null, "Fields and how to write a filter"),
    element(
      "p",
      null,
      "Comparisons with < <= > >= = != and ~ (contains), is unknown, in (…), joined with and, or, not and brackets. ",
      "Text stands in quotes: ",
      element("code", null, 'gamma < 0.2 and not (category in ("S1", "S2") or chosen_words > 300)'),
    ),
    table("Fields", ["field", "what it is"], rows),
  );
}

/** Which columns the list shows, of those that there are. */
function listColumns() {
  return COLUMNS.filter(has).slice(0, MOST_COLUMNS);
}

function renderRow(option, row) {
  const flag = flagOf(row);
  const prompt = lastMessage(row);
  filled(option, null, [
    element("span", { class: "flag", "aria-label": flag ? `marked: ${flag.action ?? "note"}` : null }, flag ? "⚑" : ""),
    element(
      "span",
      { class: "snippet" },
      prompt === null ? element("span", { class: "calm" }, visible(pairs.ids[row])) : quoted(prompt.slice(0, 160)),
      element(
        "span",
        { class: "below" },
        visible([wordOf("set", row), wordOf("category", row)].filter(Boolean).join(" · ")),
      ),
    ),
    listColumns().map((field) => {
      const value = numberOf(field, row);
      return element(
        "span",
        { class: `cell${value < 0 ? " bad-text" : ""}` },
        element("span", { class: "out-of-sight" }, `${field} `),
        look.blind ? "" : short(value),
      );
    }),
  ]);
}

function refreshList() {
  list?.draw();
}

/** The rows that the settings leave, in their order; FilterError where the filter can't be read. */
function chosenRows(settings) {
  const test = compiled(settings.get("filter") ?? "");
  const mask = matching(settings.get("search") ?? "");
  const rows = new Uint32Array(pairs.rows);
  let count = 0;
  for (let row = 0; row < pairs.rows; row++) {
    if ((mask === null || mask[row]) && (test === null || test(row))) rows[count++] = row;
  }
  return sorted(rows.subarray(0, count), settings.get("sort"), settings.get("order") === "down");
}

function sorted(rows, field, down) {
  const sign = down ? -1 : 1;
  const column = field && has(field) ? pairs.columns[field] : null;
  const values = column === null ? doubts() : column.kind === "number" ? column.values : column.codes;
  const worst = (value) => (Number.isNaN(value) ? 1 : 0); // what is unknown comes last, whichever way
  return rows.slice().sort((a, b) => worst(values[a]) - worst(values[b]) || sign * (values[a] - values[b]) || a - b);
}

/** How doubtful each pair is, least first: as page_pairs.py orders them. */
function doubts() {
  doubts.values ??= Float32Array.from({ length: pairs.rows }, (_, row) => {
    const gamma = numberOf("gamma", row);
    return (Number.isNaN(gamma) ? 0.5 : gamma) - 0.1 * (numberOf("against", row) || 0);
  });
  return doubts.values;
}

function showExplorer() {
  if (!pairs) return;
  const { settings } = address();
  for (const field of ["search", "filter"]) {
    const box = document.getElementById(field);
    if (document.activeElement !== box) box.value = settings.get(field) ?? "";
  }
  document.getElementById("sort").value = settings.get("sort") ?? "";
  document.getElementById("order").textContent = settings.get("order") === "down" ? "Descending" : "Ascending";
  showRows(settings);
  showHeads(settings);
  showUnloaded(settings);
  showOpen(settings);
}

function showRows(settings) {
  const key =
    ["filter", "search", "sort", "order"].map((name) => settings.get(name) ?? "").join("\n") +
    texts.version +
    [...flags.byPair.keys()].length;
  if (shown.settings === key) return list.draw();
  const filter = document.getElementById("filter");
  const said = document.getElementById("explorer-said");
  try {
    shown.rows = chosenRows(settings);
    filter.removeAttribute("aria-invalid");
    said.classList.remove("bad-text");
    const marked = flags.byPair.size ? `, ${plural(flags.byPair.size, "mark")} of yours` : "";
    said.textContent = `${shown.rows.length.toLocaleString("en")} of ${plural(pairs.rows, "pair")}${marked}`;
  } catch (error) {
    if (!(error instanceof FilterError)) throw error;
    filter.setAttribute("aria-invalid", "true");
    said.classList.add("bad-text");
    said.textContent = `Filter: ${error.message}`;
    return undefined;
  }
  const before = shown.settings;
  shown.settings = key;
  if (before !== null) list.container.scrollTop = 0;
  list.cursor = -1;
  return list.show(shown.rows);
}

function showHeads(settings) {
  const now = settings.get("sort");
  const down = settings.get("order") === "down";
  const head = (field) =>
    element(
      "button",
      {
        type: "button",
        class: "head",
        title: run.pairs.fields[field],
        "aria-pressed": now === field ? "true" : "false",
        on: { click: () => go("pairs", { sort: field, order: now === field && !down ? "down" : "" }) },
      },
      field.split("_").flatMap((word, at) => (at ? ["_", element("wbr"), word] : [word])),
      now === field && (down ? " ↓" : " ↑"),
    );
  document
    .getElementById("heads")
    .replaceChildren(element("span", { class: "snippet" }, "prompt"), ...listColumns().map(head));
}

/** Says which texts a search doesn't reach, and loads them on demand. */
function showUnloaded(settings) {
  const place = document.getElementById("unloaded");
  const numbers = Array.from({ length: run.pairs.parts }, (_, at) => at + 1);
  const left = numbers.filter((number) => !texts.loaded.has(`pairs-${number}.js`));
  if (!left.length) return place.replaceChildren();
  const lacks = texts.missing.size
    ? ` ${[...texts.missing].join(", ")} ${texts.missing.size > 1 ? "are" : "is"} not beside this page.`
    : "";
  const line = settings.get("search") ? "Searched" : "There are";
  return place.replaceChildren(
    element(
      "span",
      null,
      `${line} texts of ${texts.rows.length.toLocaleString("en")} of ${plural(pairs.rows, "pair")}, `,
      `the most doubtful and some by chance.${lacks}`,
    ),
    element(
      "button",
      {
        type: "button",
        class: "quiet",
        id: "load-all",
        on: {
          click: async () => {
            for (const number of left) await loadPart(number);
            showExplorer();
          },
        },
      },
      `Load ${plural(left.length, "more file")}`,
    ),
  );
}

function showOpen(settings) {
  const place = document.getElementById("pair");
  const row = settings.get("open") ? rowNamed(settings.get("open")) : null;
  document.querySelector(".explorer").classList.toggle("with-pair", row !== null);
  if (row === null) {
    place.replaceChildren(element("h3", { id: "pair-title" }, "No pair is open"));
    return;
  }
  const at = shown.rows.indexOf(row);
  if (at >= 0 && at !== list.cursor) list.move(at);
  showPair(place, row);
  if (shown.bring) place.scrollIntoView({ block: "start" });
  shown.bring = false;
}

function openAt(at, step = true) {
  if (!shown.rows.length) return;
  list.move(at);
  go("pairs", { open: pairName(shown.rows[list.cursor]) }, step);
}
