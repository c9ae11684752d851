// Reads the page's blocks, then shows the view that the address names; from there on, what the address names.

let run = null;
let outside = null; // seconds and settings, in the page at the top of a run's folder
const places = {};

const SHOW = {
  summary: showSummary,
  figures: showFigures,
  answers: showAnswers,
  configuration: showConfiguration,
};
const once = new Set(["summary", "figures", "configuration"]); // these don't change

function show() {
  const { view } = address();
  for (const [name, place] of Object.entries(places)) place.hidden = name !== view;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "pairs") showExplorer();
  else if (!once.has(view) || !places[view].children.length) SHOW[view](places[view]);
  document.documentElement.dataset.shown = location.hash;
}

async function start() {
  const main = document.getElementById("content");
  [run, outside, compared] = (await Promise.all(["run", "outside", "answers"].map(block))).map(asJson);
  document.getElementById("subtitle").textContent = run.about
    .slice(1, 3)
    .map(([name, value]) => `${name} ${value}`)
    .join(" · ");
  document.getElementById("views").append(
    element(
      "ul",
      null,
      Object.entries(VIEWS).map(([name, title]) =>
        element("li", null, element("a", { href: `#${name}`, "data-view": name }, title)),
      ),
    ),
  );
  for (const name of Object.keys(VIEWS)) {
    places[name] = element("div", { id: `view-${name}`, class: "view" });
    main.append(places[name]);
  }
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  if (address().view === "summary") show();
  if (run.pairs) {
    pairs = columnsOf(await block("pairs"));
    openFlags(run.pairs.key);
    keepTexts(asJson(await block("texts")));
  }
  buildExplorer(places.pairs);
  addEventListener("hashchange", show);
  addEventListener("keydown", onKey);
  show();
  document.documentElement.dataset.ready = "";
  performance.mark("ready");
}

start().catch((error) => {
  document
    .getElementById("content")
    .append(
      element(
        "p",
        { class: "notice" },
        `This page can't be shown: ${error.message}. `,
        "It needs a browser of 2023 or later; report.json and table.txt beside it have the same figures.",
      ),
    );
  throw error;
});
