// The texts of pairs: those inside the page, and those of the files beside it, which come when they are wanted.

const texts = { prompt: [], chosen: [], rejected: [], rows: [], version: 0, missing: new Set(), loaded: new Set() };
let arrived = () => {}; // what is done when a file has come

function keepTexts({ rows, texts: found }) {
  found.forEach(([prompt, chosen, rejected], at) => {
    const row = rows[at];
    texts.prompt[row] = prompt;
    texts.chosen[row] = chosen;
    texts.rejected[row] = rejected;
    texts.rows.push(row);
  });
  texts.version++;
}

globalThis.repalignTexts = async (name, content) => {
  keepTexts(asJson(await unpacked(content)));
  texts.loaded.add(name);
  arrived();
};

/** Loads a file beside the page; false if it isn't there, as when the page was mailed alone. */
async function loadPart(number) {
  const name = `pairs-${number}.js`;
  if (texts.loaded.has(name)) return true;
  const places = location.pathname.endsWith("/report.html") ? ["report/", ""] : ["", "report/"];
  for (const place of places) {
    if (await ran(place + name)) {
      texts.missing.delete(name);
      return true;
    }
  }
  texts.missing.add(name);
  return false;
}

/** Runs a script file, and waits for its texts. */
function ran(source) {
  return new Promise((resolve) => {
    const script = element("script", { src: source });
    const before = arrived;
    script.onerror = () => {
      script.remove();
      resolve(false);
    };
    script.onload = () => {
      arrived = () => {
        arrived = before;
        script.remove();
        resolve(true);
      };
    };
    document.head.append(script);
  });
}

/** A prompt as its messages: [role, text]. */
function messages(row) {
  const prompt = texts.prompt[row];
  if (prompt === undefined) return null;
  return typeof prompt === "string" ? [["user", prompt]] : prompt;
}

function lastMessage(row) {
  const all = messages(row);
  return all === null ? null : all[all.length - 1][1];
}
