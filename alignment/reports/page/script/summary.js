// The summary: who reads no further knows the result.

const AT_FIRST = 6; // lines of a list; the others unfold

const VERDICTS = {
  held: ["Gates held", "good"],
  missed: ["Gates missed", "bad"],
  none: ["No gate", "open"],
};

function showSummary(place) {
  const [word, tone] = VERDICTS[run.verdict.state];
  place.replaceChildren(
    element("h2", { class: "out-of-sight" }, "Summary"),
    element(
      "section",
      { class: `verdict ${tone}`, "aria-labelledby": "verdict" },
      element("p", { class: "badge", id: "verdict" }, word),
      element(
        "ul",
        null,
        run.verdict.lines.map((line) => element("li", null, visible(line))),
      ),
    ),
    element(
      "dl",
      { class: "about" },
      run.about.map(([name, value]) =>
        element("div", null, element("dt", null, name), element("dd", null, quoted(value))),
      ),
    ),
    element(
      "div",
      { class: "beside" },
      element("div", null, part("Headline figures", headlines()), part("Gates", gates())),
      element(
        "div",
        null,
        part(
          "What this run did not show",
          linesOf(run.notShown, "Every comparison of this run has an interval on the claimed side, or there was none."),
        ),
        part(
          "Warnings",
          linesOf(run.warnings, "None: no broken policy, no row set aside, no answer cut off beyond a tenth."),
          quarantine(),
        ),
        part("Cost", cost()),
      ),
    ),
    ...part("Answers before and after", samples()),
    ...part("All tables", everyTable()),
  );
}

function part(title, ...content) {
  const kept = content.flat().filter(Boolean);
  return kept.length ? [element("section", { class: "part" }, element("h3", null, title), kept)] : [];
}

function linesOf(lines, none) {
  if (!lines.length) return element("p", { class: "calm" }, none);
  const listed = (some) =>
    element(
      "ul",
      { class: "lines" },
      some.map((line) => element("li", null, visible(line))),
    );
  if (lines.length <= AT_FIRST + 1) return listed(lines);
  const rest = element(
    "details",
    null,
    element("summary", null, `${lines.length - AT_FIRST} more`),
    listed(lines.slice(AT_FIRST)),
  );
  return [listed(lines.slice(0, AT_FIRST)), rest];
}

function headlines() {
  if (!run.headlines.length) return null;
  const rows = run.headlines.map(([name, value, n]) => [
    visible(name),
    value.replaceAll(" ", "\u00a0"),
    n === null ? "" : n.toLocaleString("en"),
  ]);
  return table("95% intervals in brackets", ["", "figure", "n"], rows, "numbers");
}

function gates() {
  if (!run.verdict.gates.length) return null;
  const shown = (value) => (value === null ? "not measured" : short(value));
  const rows = run.verdict.gates.map((gate) => [
    gate.gate,
    visible([gate.system, gate.set, gate.judge].filter(Boolean).join(", ")),
    shown(gate.limit),
    shown(gate.value),
    element("span", { class: gate.passed ? "good-text" : "bad-text" }, gate.passed ? "held" : "MISSED"),
  ]);
  return table("Every gate of the scorecard", ["gate", "of", "limit", "measured", ""], rows, "numbers");
}

function cost() {
  if (!run.stages.length) return null;
  const seconds = outside?.seconds ?? {};
  const known = run.stages.filter((stage) => stage.name in seconds);
  const memory = outside?.memory ?? {};
  const heads = ["stage", "what it does", "rows read", "set aside", "GB held", "seconds"];
  const rows = run.stages.map((stage) => [
    stage.name,
    stage.does,
    stage.rows ? stage.rows.read.toLocaleString("en") : "",
    stage.rows ? stage.rows.quarantined.toLocaleString("en") : "",
    stage.name in memory ? (memory[stage.name].bytes / 1e9).toFixed(1) : "",
    stage.name in seconds ? seconds[stage.name].toFixed(1) : "",
  ]);
  if (known.length > 1)
    rows.push(["all", "", "", "", "", known.reduce((sum, stage) => sum + seconds[stage.name], 0).toFixed(1)]);
  const note = known.length
    ? null
    : element("p", { class: "calm" }, "Seconds are in report.html at the top of the run's folder.");
  return [table("Stages, in order", heads, rows, "numbers"), note];
}

function quarantine() {
  const stages = Object.entries(run.quarantined).filter(([, rows]) => rows.length);
  return stages.map(([stage, rows]) =>
    element(
      "details",
      null,
      element("summary", null, `The first rows that ${stage} set aside`),
      element(
        "ul",
        { class: "lines" },
        rows.map((row) => element("li", null, quoted(row.reason))),
      ),
    ),
  );
}

/** The report as a terminal prints it: what has no headline is here. */
function everyTable() {
  if (!run.tables) return null;
  const folded = element(
    "details",
    { open: run.headlines.length === 0 },
    element("summary", null, "As they are printed"),
  );
  folded.append(copyable(run.tables, "All tables"));
  return folded;
}

const ASKED = { harmful: "asks for harm", harmless: "harmless", unknown: "of unknown harm" };

function samples() {
  if (!run.samples.length) return null;
  return run.samples.map((sample) =>
    element(
      "article",
      { class: "sample" },
      element(
        "p",
        { class: "prompt" },
        element("span", { class: `tag ${sample.asks}` }, ASKED[sample.asks]),
        quoted(sample.prompt),
      ),
      element(
        "div",
        { class: "columns" },
        sample.answers.map((answer) =>
          element(
            "div",
            { class: "answer" },
            element("h4", null, visible(answer.system)),
            quoted(answer.answer || "(nothing)", "p"),
            element(
              "p",
              { class: "said" },
              visible([answer.unfinished && "cut off", ...answer.verdicts].filter(Boolean).join("; ")),
            ),
          ),
        ),
      ),
    ),
  );
}
