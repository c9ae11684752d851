// Every view in the address: #pairs?filter=...&sort=gamma, so that it can be sent, and that back and forward work.

const VIEWS = {
  summary: "Summary",
  figures: "Figures",
  pairs: "Pairs",
  answers: "Answers",
  configuration: "Configuration",
};

/** The view that the address names, and its settings. */
function address() {
  const [view, query] = location.hash.slice(1).split(/\?(.*)/s);
  return { view: view in VIEWS ? view : "summary", settings: new URLSearchParams(query ?? "") };
}

function written(view, settings) {
  const text = new URLSearchParams(
    Object.entries(settings).filter(([, value]) => value !== null && value !== undefined && value !== ""),
  ).toString();
  return `#${view}${text && `?${text}`}`;
}

/** Changes some settings of a view. step: is it a step to come back from, or a change on the way, as in typing? */
function go(view, changes, step = true) {
  const now = address();
  const settings = now.view === view ? Object.fromEntries(now.settings) : {};
  const next = written(view, { ...settings, ...changes });
  if (next === location.hash) return;
  if (step) location.hash = next;
  else location.replace(next);
}
