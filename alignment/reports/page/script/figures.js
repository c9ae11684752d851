// The figures, each with its data as a table and as CSV. What is dragged over in one filters the explorer.

/** The rows of a figure's table: heads first. */
function dataOf(told) {
  if (told.kind === "distribution") {
    const { low, high, groups } = counted(told);
    const edge = (bin) => Number((low + ((high - low) * bin) / BINS).toPrecision(5));
    const rows = Array.from({ length: BINS }, (_, bin) => [
      edge(bin),
      edge(bin + 1),
      ...groups.map((group) => group.counts[bin]),
    ]);
    return [[`${told.field} from`, "to", ...groups.map((group) => `${group.name}, n = ${group.n}`)], ...rows];
  }
  if (told.kind === "scatter") {
    const rows = [["set", "id", told.field, told.other]];
    for (let row = 0; row < pairs.rows; row++) {
      const [x, y] = [numberOf(told.field, row), numberOf(told.other, row)];
      if (!Number.isNaN(x) && !Number.isNaN(y)) rows.push([wordOf("set", row), pairs.ids[row], x, y]);
    }
    return rows;
  }
  const heads = ["series", told.x || "of", told.y, "95% interval from", "to", "n"];
  return [
    heads,
    ...told.series.flatMap((line) =>
      line.points.map((point) => [line.name, point.x, point.y, point.low, point.high, point.n]),
    ),
  ];
}

function showFigures(place) {
  place.replaceChildren(element("h2", null, "Figures"));
  if (!run.figures.length) place.append(element("p", null, "This run has nothing that a figure could show."));
  const grid = element("div", { class: "figures" });
  place.append(grid);
  for (const told of run.figures)
    if (told.kind === "distribution" || told.kind === "scatter" ? pairs : true) grid.append(card(told));
}

function card(told) {
  const holder = element("div", { class: "drawing" });
  const answer = element("p", { class: "brushed", role: "status" });
  const brushed = (parts) => brushedFilter(parts, answer);
  const draw = () => {
    const width = Math.max(260, Math.floor(holder.clientWidth || 520));
    if (holder.dataset.width === String(width)) return;
    holder.dataset.width = width;
    const chart = {
      intervals: () => intervalsChart(told, width),
      lines: () => linesChart(told, width),
      distribution: () => distributionChart(told, width, brushed),
      scatter: () => scatterChart(told, width, brushed),
    }[told.kind]();
    holder.replaceChildren(chart);
  };
  new ResizeObserver(draw).observe(holder);
  const names =
    told.kind === "distribution"
      ? counted(told).groups.map((group) => `${group.name}, n = ${group.n.toLocaleString("en")}`)
      : told.series.map((line) => line.name);
  const details = element("details", { class: "data" }, element("summary", null, "Data"));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(dataTable(told));
  });
  const file = `${told.id.replace(/[^\w]+/g, "_")}.csv`;
  return element(
    "figure",
    { class: "card" },
    element(
      "figcaption",
      null,
      element("h3", null, visible(told.title)),
      told.says && element("p", null, visible(told.says)),
    ),
    legend(names),
    holder,
    told.kind === "distribution" && byNumbers(told, brushed),
    answer,
    element(
      "div",
      { class: "row" },
      details,
      element(
        "button",
        { type: "button", class: "quiet", on: { click: () => download(file, csv(dataOf(told)), "text/csv") } },
        "CSV",
      ),
    ),
  );
}

function dataTable(told) {
  const [heads, ...rows] = dataOf(told);
  const shown = rows
    .slice(0, 200)
    .map((row) => row.map((cell) => (typeof cell === "string" ? visible(cell) : short(cell))));
  const more =
    rows.length > shown.length ? `, the first ${shown.length} of ${rows.length.toLocaleString("en")} rows` : "";
  return table(`${told.title}${more}`, heads, shown, "numbers");
}

/** The same as dragging, for those who type. */
function byNumbers(told, brushed) {
  const input = (label) => element("input", { type: "number", step: "any", "aria-label": `${told.field} ${label}` });
  const [from, to] = [input("from"), input("to")];
  const apply = (event) => {
    event.preventDefault();
    if (from.value !== "" || to.value !== "") {
      brushed([[told.field, from.value === "" ? null : Number(from.value), to.value === "" ? null : Number(to.value)]]);
    }
  };
  return element(
    "form",
    { class: "row by-numbers", on: { submit: apply } },
    `${told.field} from `,
    from,
    " to ",
    to,
    element("button", { type: "submit", class: "quiet" }, "Select"),
  );
}

/** Makes a part of a figure the explorer's filter, and says how many pairs that are. */
function brushedFilter(parts, answer) {
  const sides = parts
    .flatMap(([field, low, high]) => [
      low !== null && `${field} >= ${Number(low.toPrecision(4))}`,
      high !== null && `${field} <= ${Number(high.toPrecision(4))}`,
    ])
    .filter(Boolean);
  const filter = sides.join(" and ");
  const test = compiled(filter);
  let count = 0;
  for (let row = 0; row < pairs.rows; row++) if (test(row)) count++;
  go("figures", { filter }, false);
  answer.replaceChildren(
    element("a", { href: written("pairs", { filter }) }, `${plural(count, "pair")} with ${filter}`),
  );
}
