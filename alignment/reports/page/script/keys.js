// Keys of the explorer. They can be switched off: speech input and some keyboards type them by chance.

const KEYS = {
  j: ["the next pair", () => openAt(list.cursor + 1)],
  k: ["the pair before it", () => openAt(list.cursor - 1)],
  " ": [
    "opens the pair at the cursor, or closes it",
    () => (address().settings.get("open") ? go("pairs", { open: null }) : openAt(Math.max(0, list.cursor))),
  ],
  f: ["marks its label as wrong, or no longer", () => flagAtCursor()],
  x: [
    "swaps the sides",
    () => {
      look.swapped = !look.swapped;
      showExplorer();
    },
  ],
  b: [
    "hides which side was chosen, and all scores",
    () => {
      look.blind = !look.blind;
      showExplorer();
    },
  ],
  "/": ["to the search", () => document.getElementById("search").focus()],
  "?": ["these keys", () => showKeys()],
};
const KEYS_OFF = "repalign keys off";

/** Marks the pair at the cursor as wrongly labelled, or no longer. */
function flagAtCursor() {
  if (list.cursor < 0) return;
  const row = shown.rows[list.cursor];
  if (!actionsOf(row).includes("flip")) {
    say("Built pairs are made anew of other samples: a label of theirs can't be corrected");
    return;
  }
  mark(row, { action: flagOf(row)?.action === "flip" ? null : "flip" });
  showExplorer();
  say(flagOf(row) ? `Marked: ${flagOf(row).action ?? "note"}` : "No longer marked");
}

function keysOff() {
  try {
    return localStorage.getItem(KEYS_OFF) === "1";
  } catch {
    return false;
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || address().view !== "pairs" || !pairs || keysOff()) return;
  if (document.querySelector("dialog[open]")) return;
  const typed = event.target.closest?.("input, select, textarea, [contenteditable]");
  const pressed = event.key === " " && event.target.closest?.("button, summary, a");
  const act = KEYS[event.key];
  if (!act || typed || pressed) return;
  event.preventDefault();
  act[1]();
}

function showKeys() {
  const off = element("input", { type: "checkbox" });
  off.checked = keysOff();
  off.addEventListener("change", () => {
    try {
      localStorage.setItem(KEYS_OFF, off.checked ? "1" : "0");
    } catch {
      say("This browser keeps no settings for this page");
    }
  });
  const name = (key) => (key === " " ? "space" : key);
  const dialog = element(
    "dialog",
    { "aria-labelledby": "keys-title" },
    element("h3", { id: "keys-title" }, "Keys"),
    element(
      "dl",
      { class: "keys" },
      Object.entries(KEYS).map(([key, [says]]) => [
        element("dt", null, element("kbd", null, name(key))),
        element("dd", null, says),
      ]),
    ),
    element("label", { class: "row" }, off, "switch these keys off"),
    element("form", { method: "dialog" }, element("button", null, "Close")),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
