// Distributions of columns of the pairs, and two columns against each other. A part that is dragged over is a filter.

const BINS = 40;
const MOST_GROUPS = 6;
const MOST_MARKS = 5000; // points as SVG; more are drawn on a canvas

/** The rows of each group: by a column of words the largest ones, by one of numbers those below, at and above 0. */
function groupsOf(by) {
  const column = pairs.columns[by];
  const signs = [`${by} below 0`, `${by} 0`, `${by} above 0`];
  const groups = new Map(column.kind === "number" ? signs.map((name) => [name, []]) : []);
  for (let row = 0; row < pairs.rows; row++) {
    const name = column.kind === "word" ? column.words[column.codes[row]] : signs[1 + Math.sign(column.values[row])];
    if (!name) continue; // unknown
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(row);
  }
  return [...groups].sort((a, b) => (column.kind === "word" ? b[1].length - a[1].length : 0)).slice(0, MOST_GROUPS);
}

/** How many pairs of each group lie in each bin; shares of the group are drawn, since groups differ in size. */
function counted(told) {
  const values = pairs.columns[told.field].values;
  let [low, high] = extent(values);
  if (told.field === "gamma") [low, high] = [0, 1];
  const groups = groupsOf(told.by)
    .map(([name, rows]) => {
      const counts = new Uint32Array(BINS);
      let n = 0;
      for (const row of rows) {
        if (Number.isNaN(values[row])) continue;
        counts[Math.min(BINS - 1, Math.floor(((values[row] - low) / (high - low)) * BINS))]++;
        n++;
      }
      return { name, counts, n };
    })
    .filter((group) => group.n > 0);
  return { low, high, groups };
}

function distributionChart(told, width, brushed) {
  const height = 240;
  const { low, high, groups } = counted(told);
  const chart = canvasOf(width, height, `${told.title}: counts are in the table below`);
  const most = Math.max(...groups.map((group) => Math.max(...group.counts) / group.n), 0.01);
  const at = scale(low, high, CHART.left, width - CHART.right);
  const up = scale(0, most, height - CHART.bottom, CHART.top);
  verticalAxis(chart, up, 0, most, width, "share", true);
  horizontalAxis(chart, at, low, high, width, height - CHART.bottom, told.x, false);
  groups.forEach((group, series) => {
    const corners = [];
    group.counts.forEach((count, bin) => {
      const y = up(count / group.n);
      corners.push(
        `${at(low + ((high - low) * bin) / BINS)},${y}`,
        `${at(low + ((high - low) * (bin + 1)) / BINS)},${y}`,
      );
    });
    chart.append(
      drawn("polyline", {
        class: `line hue-${series % HUES}`,
        points: corners.join(" "),
        "stroke-dasharray": DASHES[series % DASHES.length],
      }),
    );
  });
  if (low < 0 && high > 0)
    chart.append(drawn("line", { class: "zero", x1: at(0), x2: at(0), y1: CHART.top, y2: height - CHART.bottom }));
  brush(chart, width, height, false, ([x1, x2]) => {
    const value = (x) => low + ((x - CHART.left) / (width - CHART.right - CHART.left)) * (high - low);
    brushed([[told.field, value(x1), value(x2)]]);
  });
  return chart;
}

function scatterChart(told, width, brushed) {
  const height = 320;
  const across = pairs.columns[told.field].values;
  const along = pairs.columns[told.other].values;
  const rows = [];
  for (let row = 0; row < pairs.rows; row++)
    if (!Number.isNaN(across[row]) && !Number.isNaN(along[row])) rows.push(row);
  const [left, right] = extent(rows.map((row) => across[row]));
  const [low, high] = extent(rows.map((row) => along[row]));
  const at = scale(left, right, CHART.left, width - CHART.right);
  const up = scale(low, high, height - CHART.bottom, CHART.top);
  const chart = canvasOf(width, height, `${told.title}, ${plural(rows.length, "pair")}: the explorer lists them`);
  verticalAxis(chart, up, low, high, width, told.y, false);
  horizontalAxis(chart, at, left, right, width, height - CHART.bottom, told.x, false);
  if (rows.length <= MOST_MARKS) {
    for (const row of rows)
      chart.append(
        drawn("circle", { class: "point hue-0", cx: at(across[row]).toFixed(1), cy: up(along[row]).toFixed(1), r: 2 }),
      );
  }
  brush(chart, width, height, true, ([x1, x2], [y1, y2]) => {
    const x = (place) => left + ((place - CHART.left) / (width - CHART.right - CHART.left)) * (right - left);
    const y = (place) => low + ((height - CHART.bottom - place) / (height - CHART.bottom - CHART.top)) * (high - low);
    brushed([
      [told.field, x(x1), x(x2)],
      [told.other, y(y2), y(y1)],
    ]);
  });
  if (rows.length <= MOST_MARKS) return chart;
  return element(
    "div",
    { class: "layers" },
    pointsOn(
      width,
      height,
      rows,
      (row) => at(across[row]),
      (row) => up(along[row]),
    ),
    chart,
  );
}

/** So many points that elements would be slow: on a canvas below the chart, twice as fine as the screen. */
function pointsOn(width, height, rows, x, y) {
  const canvas = element("canvas", { width: 2 * width, height: 2 * height, "aria-hidden": "true" });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--hue-0");
  pen.globalAlpha = rows.length > 20000 ? 0.15 : 0.4;
  for (const row of rows) pen.fillRect(2 * x(row) - 1, 2 * y(row) - 1, 3, 3);
  return canvas;
}

/** Takes what is dragged over, by mouse, pen or finger. done: gets both ends across, and both ends down. */
function brush(chart, width, height, both, done) {
  const area = drawn("rect", {
    class: "brush-area",
    x: CHART.left,
    y: CHART.top,
    width: width - CHART.left - CHART.right,
    height: height - CHART.top - CHART.bottom,
  });
  const box = drawn("rect", { class: "brush", visibility: "hidden" });
  chart.append(box, area);
  let start = null;
  const place = (event) => {
    const edge = chart.getBoundingClientRect();
    const x = ((event.clientX - edge.left) * width) / edge.width;
    const y = ((event.clientY - edge.top) * height) / edge.height;
    return [
      Math.max(CHART.left, Math.min(width - CHART.right, x)),
      Math.max(CHART.top, Math.min(height - CHART.bottom, y)),
    ];
  };
  const between = (one, other) => (one < other ? [one, other] : [other, one]);
  area.addEventListener("pointerdown", (event) => {
    start = place(event);
    area.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  area.addEventListener("pointermove", (event) => {
    if (!start) return;
    const now = place(event);
    const [x1, x2] = between(start[0], now[0]);
    const [y1, y2] = both ? between(start[1], now[1]) : [CHART.top, height - CHART.bottom];
    for (const [name, value] of Object.entries({
      x: x1,
      y: y1,
      width: x2 - x1,
      height: y2 - y1,
      visibility: "visible",
    }))
      box.setAttribute(name, value);
  });
  area.addEventListener("pointerup", (event) => {
    if (!start) return;
    const from = start;
    const now = place(event);
    start = null;
    if (Math.abs(now[0] - from[0]) > 3) done(between(from[0], now[0]), between(from[1], now[1]));
  });
}
