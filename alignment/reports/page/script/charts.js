// Charts as SVG, drawn at the width they have: dots with intervals, and lines. Series differ in colour and in shape.

const CHART = { top: 12, right: 14, bottom: 36, left: 46 };
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 4", "10 4"];
const HUES = 6; // as many as page.css names; from there on they begin again, with other shapes

/** Numbers on an axis: about so many, at round places. */
function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const from = Math.ceil(low / step - 1e-9);
  const to = Math.floor(high / step + 1e-9);
  return Array.from({ length: to - from + 1 }, (_, at) => Number(((from + at) * step).toPrecision(12)));
}

/** The least and the greatest of the values, a little apart where they are the same. */
function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (Number.isNaN(value) || value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

/** An empty chart of this size, with its name for those who can't see it. */
function canvasOf(width, height, name) {
  return drawn("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: "img",
    "aria-label": name,
  });
}

/** places: where its ticks are, if there are few values and they are known. */
function horizontalAxis(chart, at, low, high, width, y, name, percent, places = null) {
  for (const tick of places ?? ticks(low, high, Math.max(2, Math.round(width / 90)))) {
    chart.append(
      drawn("line", { class: "grid", x1: at(tick), x2: at(tick), y1: CHART.top, y2: y }),
      drawn("text", { x: at(tick), y: y + 15, "text-anchor": "middle" }, percent ? short(tick * 100) : short(tick)),
    );
  }
  chart.append(drawn("line", { class: "axis", x1: CHART.left, x2: width - CHART.right, y1: y, y2: y }));
  chart.append(
    drawn(
      "text",
      { class: "axis-name", x: width - CHART.right, y: y + 31, "text-anchor": "end" },
      percent ? `${name}, %` : name,
    ),
  );
}

function verticalAxis(chart, at, low, high, width, name, percent) {
  for (const tick of ticks(low, high, 5)) {
    chart.append(
      drawn("line", { class: "grid", x1: CHART.left, x2: width - CHART.right, y1: at(tick), y2: at(tick) }),
      drawn(
        "text",
        { x: CHART.left - 6, y: at(tick) + 4, "text-anchor": "end" },
        percent ? short(tick * 100) : short(tick),
      ),
    );
  }
}

/** Which series is which, above a chart; nothing where there is one. */
function legend(names) {
  if (names.length < 2) return null;
  return element(
    "ul",
    { class: "legend" },
    names.map((name, at) =>
      element(
        "li",
        null,
        drawn(
          "svg",
          { width: 26, height: 12, "aria-hidden": "true" },
          drawn("line", {
            class: `line hue-${at % HUES}`,
            x1: 1,
            x2: 25,
            y1: 6,
            y2: 6,
            "stroke-dasharray": DASHES[at % DASHES.length],
          }),
          marker(at, 13, 6),
        ),
        visible(name),
      ),
    ),
  );
}

/** The sign of a series: shapes differ as colours do. */
function marker(series, x, y) {
  const size = 4;
  const shapes = [
    () => drawn("circle", { cx: x, cy: y, r: size }),
    () => drawn("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size }),
    () => drawn("path", { d: `M${x} ${y - size - 1}L${x + size + 1} ${y + size}L${x - size - 1} ${y + size}Z` }),
    () => drawn("path", { d: `M${x} ${y - size - 1}L${x + size + 1} ${y}L${x} ${y + size + 1}L${x - size - 1} ${y}Z` }),
  ];
  const shape = shapes[(series + Math.floor(series / HUES)) % shapes.length]();
  shape.setAttribute("class", `dot hue-${series % HUES}`);
  return shape;
}

/** Dots with their intervals, a row for each place and series. */
function intervalsChart(told, width) {
  const places = [...new Set(told.series.flatMap((line) => line.points.map((point) => point.x)))];
  const drawnSeries = told.series.map((line) => new Map(line.points.map((point) => [point.x, point])));
  const names = Math.min(0.34 * width, 14 + 6.6 * Math.max(...places.map((place) => String(place).length)));
  const band = Math.max(26, 13 * told.series.length + 10);
  const height = CHART.top + band * places.length + CHART.bottom;
  const chart = canvasOf(width, height, `${told.title}: figures are in the table below`);
  const all = told.series.flatMap((line) =>
    line.points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]),
  );
  const [least, most] = extent(all);
  const low = told.percent ? Math.max(0, Math.min(least, 0.1 * Math.floor(10 * least))) : least;
  const high = told.percent ? Math.min(1, Math.max(0.1 * Math.ceil(10 * most - 1e-9), low + 0.1)) : most;
  const left = Math.max(CHART.left, names);
  const at = scale(low, high, left, width - CHART.right);
  const bottom = height - CHART.bottom;
  horizontalAxis(chart, at, low, high, width, bottom, told.y, told.percent);
  places.forEach((place, number) => {
    const middle = CHART.top + band * (number + 0.5);
    const room = Math.floor(names / 6.6);
    const name = String(place).length > room ? `${String(place).slice(0, room - 1)}…` : String(place);
    chart.append(
      drawn(
        "text",
        { x: left - 8, y: middle + 4, "text-anchor": "end" },
        visible(name).map((part) => part.textContent ?? part),
      ),
    );
    drawnSeries.forEach((points, series) => {
      const point = points.get(place);
      if (!point) return;
      const y = middle + 13 * (series - (told.series.length - 1) / 2);
      if (point.low !== null)
        chart.append(
          drawn("line", {
            class: `interval hue-${series % HUES}`,
            x1: at(point.low),
            x2: at(point.high),
            y1: y,
            y2: y,
          }),
        );
      chart.append(marker(series, at(point.y), y));
    });
  });
  return chart;
}

/** Lines over numbers, with their intervals as bands. */
function linesChart(told, width) {
  const height = 260;
  const chart = canvasOf(width, height, `${told.title}: figures are in the table below`);
  const points = told.series.flatMap((line) => line.points);
  const [left, right] = extent(points.map((point) => point.x));
  const [low, high] = extent(points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]));
  const at = scale(left, right, CHART.left, width - CHART.right);
  const up = scale(low, high, height - CHART.bottom, CHART.top);
  verticalAxis(chart, up, low, high, width, told.y, told.percent);
  const places = [...new Set(points.map((point) => point.x))];
  const few = places.length <= 8 ? places : null;
  horizontalAxis(chart, at, left, right, width, height - CHART.bottom, told.x, false, few);
  told.series.forEach((line, series) => {
    const hue = `hue-${series % HUES}`;
    const known = line.points.filter((point) => point.low !== null);
    if (known.length > 1) {
      const there = known.map((point) => `${at(point.x)},${up(point.high)}`);
      const back = known.map((point) => `${at(point.x)},${up(point.low)}`).reverse();
      chart.append(drawn("polygon", { class: `band ${hue}`, points: [...there, ...back].join(" ") }));
    }
    const path = line.points.map((point) => `${at(point.x)},${up(point.y)}`).join(" ");
    chart.append(
      drawn("polyline", { class: `line ${hue}`, points: path, "stroke-dasharray": DASHES[series % DASHES.length] }),
    );
    if (line.points.length < 40) line.points.forEach((point) => chart.append(marker(series, at(point.x), up(point.y))));
  });
  return chart;
}
