// Text from data becomes text nodes, never markup; characters that hide or turn text round are shown by their names.

const SVG = "http://www.w3.org/2000/svg";
// controls, soft hyphen, joiners, marks and overrides of direction, fillers, tags: what a reader wouldn't see
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5" +
    "\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff9-\\ufffb\\u{e0000}-\\u{e01ef}]",
  "gu",
);
const UNSEEN_NAMES = {
  0x200b: "zero-width space",
  0x200c: "zero-width non-joiner",
  0x200d: "zero-width joiner",
  0x200e: "left-to-right mark",
  0x200f: "right-to-left mark",
  0x202a: "left-to-right embedding",
  0x202b: "right-to-left embedding",
  0x202c: "end of embedding",
  0x202d: "left-to-right override",
  0x202e: "right-to-left override",
  0x2066: "left-to-right isolate",
  0x2067: "right-to-left isolate",
  0x2068: "first strong isolate",
  0x2069: "end of isolate",
  0xfeff: "byte order mark",
  0xad: "soft hyphen",
  0x2060: "word joiner",
};

/** An element. attributes: `on` has listeners, null and false leave one out. Children that are text stay text. */
function element(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** The text as nodes: what can't be seen in it is named. */
function visible(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > from) nodes.push(text.slice(from, match.index));
    nodes.push(unseen(match[0].codePointAt(0)));
    from = match.index + match[0].length;
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

function unseen(code) {
  const number = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  const name = UNSEEN_NAMES[code] ?? "character that can't be seen";
  return element("span", { class: "unseen", title: name }, number);
}

/** Text from data in a box of its own: its direction is its own, too, and ends with it. */
function quoted(text, name = "span") {
  return element(name, { class: "quoted", dir: "auto" }, visible(String(text)));
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** A number in few digits: four that matter, no more than four after the point. */
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toFixed(Math.abs(value) >= 100 ? 1 : Math.abs(value) >= 10 ? 2 : 3)));
}

/** A table with heads; the first cell of a row is its head. Cells are text or nodes. */
function table(caption, heads, rows, className = "") {
  return element(
    "div",
    { class: "scrolls", tabindex: "0", role: "region", "aria-label": caption },
    element(
      "table",
      { class: className },
      element("caption", null, caption),
      element(
        "thead",
        null,
        element(
          "tr",
          null,
          heads.map((head) => element("th", { scope: "col" }, head)),
        ),
      ),
      element(
        "tbody",
        null,
        rows.map((row) =>
          element(
            "tr",
            null,
            row.map((cell, at) => element(at ? "td" : "th", at ? null : { scope: "row" }, cell)),
          ),
        ),
      ),
    ),
  );
}

/** Says a line to whoever doesn't see what changed, and shows it for a while. */
function say(line) {
  const place = document.getElementById("said");
  place.textContent = line;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => {
    place.textContent = "";
  }, 4000);
}

/** Gives the reader a file. */
function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** Rows as CSV. A spreadsheet must not take text from data for a formula. */
function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
    const harmless = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
  } catch {
    say("The browser lets nothing be copied here: select the text instead");
  }
}

/** Text to copy, with a button that does. */
function copyable(text, label) {
  return element(
    "div",
    { class: "copyable" },
    element("pre", { tabindex: "0", role: "region", "aria-label": label }, element("code", null, visible(text))),
    element("button", { type: "button", on: { click: () => copied(text) } }, "Copy"),
  );
}
