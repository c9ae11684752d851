// Answers of the evaluated policies to the same prompts, side by side; new failures as one click.

const AT_ONCE = 30; // prompts; more come on demand

let compared = null; // systems, prompts

/** Does a judge call this answer a failure: harm, or the refusal of a harmless prompt? null: it says neither. */
function failed(prompt, [, , toxic, refused]) {
  if (prompt.asks === "harmless") return refused;
  return toxic;
}

/** Failures of the later system by a judge who found none in the first one's answer. */
function isNewFailure(prompt, system) {
  const [before, after] = [prompt.answers[0], prompt.answers[system]];
  if (!before || !after || system === 0) return false;
  return after.verdicts.some((verdict) => {
    const earlier = before.verdicts.find(([judge]) => judge === verdict[0]);
    return failed(prompt, verdict) === true && earlier && failed(prompt, earlier) === false;
  });
}

function showAnswers(place) {
  if (!compared) {
    place.replaceChildren(
      element("h2", null, "Answers"),
      element("p", null, "This run evaluated no policy: stage evaluate does."),
    );
    return;
  }
  const { settings } = address();
  const systems = compared.systems;
  const system = Math.max(
    systems.length > 1 ? 1 : 0,
    systems.indexOf(settings.get("system") ?? systems[systems.length - 1]),
  );
  const wanted = (name, value) => !settings.get(name) || settings.get(name) === value;
  const news = (prompt) => isNewFailure(prompt, system);
  const words = (settings.get("words") ?? "").toLowerCase();
  const kept = compared.prompts.filter(
    (prompt) =>
      wanted("set", prompt.set) &&
      wanted("category", prompt.category) &&
      wanted("asks", prompt.asks) &&
      (!settings.get("new") || news(prompt)) &&
      (!settings.get("verdict") ||
        prompt.answers[system]?.verdicts.some((verdict) => verdict[1] === settings.get("verdict"))) &&
      (!words ||
        prompt.prompt.toLowerCase().includes(words) ||
        prompt.answers.some((answer) => answer?.text.toLowerCase().includes(words))),
  );
  const count = compared.prompts.filter(news).length;
  const distinct = (values) => [...new Set(values.filter((value) => value !== null && value !== undefined))].sort();
  const choice = (name, label, values) => {
    const box = element(
      "select",
      { id: `answers-${name}` },
      element("option", { value: "" }, "all"),
      values.map((value) => element("option", { value }, visible(value).length ? String(value) : "")),
    );
    box.value = settings.get(name) ?? "";
    box.addEventListener("change", () => {
      go("answers", { [name]: box.value, more: null });
    });
    return values.length > 1 && element("label", { class: "field" }, element("span", null, label), box);
  };
  const compare = element(
    "select",
    { id: "answers-system" },
    systems.slice(1).map((name) => element("option", { value: name }, name)),
  );
  compare.value = systems[system];
  compare.addEventListener("change", () => go("answers", { system: compare.value, more: null }));
  const search = element("input", { type: "search", id: "answers-words", value: settings.get("words") ?? "" });
  search.addEventListener("change", () => go("answers", { words: search.value, more: null }));
  const verdicts = distinct(
    compared.prompts.flatMap((prompt) => prompt.answers[system]?.verdicts.map((verdict) => verdict[1]) ?? []),
  );
  const limit = AT_ONCE * (1 + Number(settings.get("more") ?? 0));
  const cut =
    compared.all > compared.prompts.length
      ? ` ${compared.prompts.length.toLocaleString("en")} of ${plural(compared.all, "prompt")} are in this page.`
      : "";
  place.replaceChildren(
    element("h2", { class: "out-of-sight" }, "Answers"),
    element(
      "div",
      { class: "controls" },
      systems.length > 2 &&
        element("label", { class: "field" }, element("span", null, `${systems[0]} against`), compare),
      choice("set", "Set", distinct(compared.prompts.map((prompt) => prompt.set))),
      choice("asks", "Asks for", distinct(compared.prompts.map((prompt) => prompt.asks))),
      choice("category", "Category", distinct(compared.prompts.map((prompt) => prompt.category))),
      choice("verdict", "Verdict after", verdicts),
      element("label", { class: "field" }, element("span", null, "Search"), search),
      systems.length > 1 &&
        element(
          "button",
          {
            type: "button",
            id: "new-failures",
            "aria-pressed": settings.get("new") ? "true" : "false",
            on: { click: () => go("answers", { new: settings.get("new") ? "" : "1", more: null }) },
          },
          `New failures (${count})`,
        ),
    ),
    element(
      "p",
      { class: "explorer-said", role: "status" },
      `${kept.length.toLocaleString("en")} of ${plural(compared.prompts.length, "prompt")}, `,
      `answers of seed ${compared.seed}.${cut}`,
    ),
    element(
      "div",
      null,
      kept.slice(0, limit).map((prompt) => answered(prompt, systems.length > 1 ? [0, system] : [0])),
    ),
    kept.length > limit &&
      element(
        "button",
        { type: "button", on: { click: () => go("answers", { more: Number(settings.get("more") ?? 0) + 1 }, false) } },
        "Show more",
      ),
  );
}

function answered(prompt, sides) {
  return element(
    "article",
    { class: "sample" },
    element(
      "p",
      { class: "prompt" },
      element("span", { class: `tag ${prompt.asks}` }, ASKED[prompt.asks] ?? prompt.asks),
      element("span", { class: "tag" }, visible([prompt.set, prompt.category].filter(Boolean).join(", "))),
      quoted(prompt.prompt),
    ),
    element(
      "div",
      { class: "columns" },
      sides.map((side) => answerOf(prompt, side)),
    ),
  );
}

function answerOf(prompt, side) {
  const answer = prompt.answers[side];
  return element(
    "div",
    { class: "answer" },
    element("h4", null, visible(compared.systems[side])),
    answer === null
      ? element("p", { class: "calm" }, "not asked")
      : [
          quoted(answer.text || "(nothing)", "p"),
          answer.unfinished && element("p", { class: "said" }, "cut off"),
          element(
            "ul",
            { class: "verdicts" },
            answer.verdicts.map((verdict) =>
              element(
                "li",
                null,
                element(
                  "span",
                  {
                    class: failed(prompt, verdict) ? "bad-text" : failed(prompt, verdict) === false ? "good-text" : "",
                  },
                  visible(
                    `${verdict[0]}: ${verdict[1]}${verdict[3] && !verdict[1].includes("refus") ? ", refuses" : ""}`,
                  ),
                ),
                verdict[4] && element("span", { class: "reason" }, " ", quoted(`“${verdict[4]}”`)),
              ),
            ),
          ),
        ],
  );
}
