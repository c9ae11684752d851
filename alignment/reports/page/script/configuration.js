// What made every stage: settings, inputs, versions and hashes, to read and to copy.

function showConfiguration(place) {
  const worlds = Object.entries(run.world).map(([name, hash]) => [`the embedded world's ${name}`, hash]);
  place.replaceChildren(
    element("h2", null, "Configuration"),
    ...part(
      "As it was composed",
      outside?.settings
        ? copyable(outside.settings, "config.yaml")
        : element(
            "p",
            { class: "calm" },
            "The settings as they were composed are in report.html at the top of the run's folder, ",
            "and in config.yaml beside it.",
          ),
    ),
    ...part(
      "Versions",
      table("Libraries", ["library", "version"], [...Object.entries(run.versions), ...worlds], "numbers"),
    ),
    ...part("Stages", Object.entries(run.manifests).map(manifest)),
  );
}

function manifest([stage, told]) {
  const corrections = told.config["data.corrections"];
  return element(
    "details",
    null,
    element(
      "summary",
      null,
      stage,
      told.git_commit && element("span", { class: "calm" }, ` at commit ${told.git_commit.slice(0, 10)}`),
    ),
    corrections && element("p", null, visible(`Corrections of the data: ${corrections}`)),
    copyable(JSON.stringify(told, null, 2), `Manifest of ${stage}`),
  );
}
