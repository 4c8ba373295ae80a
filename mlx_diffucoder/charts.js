// Charts as SVG, from the plain data that pages.py describes. A chart stands alone: it can be saved.
const COLOURS = ["#4269d0", "#e0a000", "#e5533d", "#3ca08c", "#3c9d4a", "#d45d98", "#8a58d6", "#9a9a9a", "#9c6b4e", "#4aa3d8"];
const WIDTH = 720, LINE = 18;

function add(parent, name, attributes = {}, text = "") {
  const made = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

const write = (svg, x, y, text, more = {}) => add(svg, "text", {x, y, fill: "currentColor", ...more}, text);
const short = value => value && Math.abs(value) < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(3)));
const colour = number => COLOURS[number % COLOURS.length];

// The pixel of each value on an axis, and the values to mark on it.
function scale(axis, values, from, to) {
  let low = values.reduce((a, b) => Math.min(a, b), axis.log ? Infinity : 0);
  let high = values.reduce((a, b) => Math.max(a, b), axis.log ? -Infinity : 0);
  const ticks = [];
  if (axis.log) {
    if (!values.length) [low, high] = [1, 10];
    const factors = axis.log === 2 ? [1] : Math.log10(high / low) > 3 ? [1] : [1, 2, 5];
    const first = Math.floor(Math.log(low) / Math.log(axis.log)), last = Math.ceil(Math.log(high) / Math.log(axis.log));
    for (let power = first; power <= last; power++) factors.forEach(factor => ticks.push(factor * axis.log ** power));
    low = Math.max(...ticks.filter(tick => tick <= low)); high = Math.min(...ticks.filter(tick => tick >= high));
    if (low === high) high *= axis.log;
  } else {
    if (low === high) high = low + 1;
    const power = 10 ** Math.floor(Math.log10((high - low) / 4));
    const step = power * [1, 2, 5, 10].find(factor => factor * power >= (high - low) / 6);
    for (let number = Math.ceil(low / step); number * step <= high * (1 + 1e-9); number++) ticks.push(number * step);
  }
  const of = axis.log ? Math.log : value => value;
  return {
    at: value => Math.round(10 * (from + (to - from) * (of(value) - of(low)) / (of(high) - of(low)))) / 10,
    ticks: ticks.filter(tick => tick >= low * (axis.log ? 1 - 1e-9 : 1) && tick <= high * (1 + 1e-9)),
  };
}

// The drawing with its title, and a link below it.
function figure(parent, title, height) {
  const box = parent.appendChild(document.createElement("figure")), link = document.createElement("a");
  const svg = add(box, "svg", {viewBox: `0 0 ${WIDTH} ${height}`, "font-family": "system-ui, sans-serif", "font-size": 12});
  write(svg, 8, 18, title, {"font-size": 14, "font-weight": "bold"});
  link.textContent = "save as SVG";
  link.className = "soft";
  link.href = "#";
  link.download = title.replace(/\W+/g, "-") + ".svg";
  link.addEventListener("click", () => {
    link.href = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(svg));
  });
  box.appendChild(link);
  return svg;
}

function grid(svg, axis, places, top, bottom) {
  for (const tick of places.ticks) {
    add(svg, "path", {d: `M${places.at(tick)} ${top}V${bottom}`, stroke: "currentColor", opacity: 0.12});
    write(svg, places.at(tick), bottom + 16, short(tick), {"text-anchor": "middle"});
  }
  write(svg, WIDTH / 2, bottom + 34, axis.label, {"text-anchor": "middle"});
}

function drawSeries(parent, chart) {
  const named = chart.series.filter(one => one.name), left = 64, right = WIDTH - 16, top = 34, bottom = 330;
  const svg = figure(parent, chart.title, bottom + 48 + LINE * named.length);
  const points = chart.series.flatMap(one => one.points);
  const x = scale(chart.x, points.map(point => point[0]), left, right);
  const y = scale(chart.y, points.flatMap(point => point.slice(1)), bottom, top);
  grid(svg, chart.x, x, top, bottom);
  for (const tick of y.ticks) {
    add(svg, "path", {d: `M${left} ${y.at(tick)}H${right}`, stroke: "currentColor", opacity: 0.12});
    write(svg, left - 6, y.at(tick) + 4, short(tick), {"text-anchor": "end"});
  }
  write(svg, 0, 0, chart.y.label, {"text-anchor": "middle", transform: `translate(14 ${(top + bottom) / 2}) rotate(-90)`});
  chart.series.forEach((one, number) => {
    const stroke = colour(one.colour ?? number), places = one.points.map(point => `${x.at(point[0])} ${y.at(point[1])}`);
    const style = {fill: "none", stroke, "stroke-linejoin": "round"};
    const spread = one.points.filter(point => point.length > 2);
    add(svg, "path", {...style, d: spread.map(([at, , low, high]) => `M${x.at(at)} ${y.at(low)}V${y.at(high)}`).join("")});
    const line = one.line || one.dashed ? {d: "M" + places.join("L"), "stroke-dasharray": one.dashed ? "5 4" : "none"} : {};
    if (places.length) add(svg, "path", {...style, ...line});
    const dots = {...style, "stroke-width": 6, "stroke-linecap": "round", d: places.map(place => `M${place}h0`).join("")};
    if (!one.dashed) add(svg, "path", dots);
  });
  legend(svg, named.map(one => ({colour: chart.series.indexOf(one), ...one})), bottom + 44);
}

function legend(svg, entries, top) {
  entries.forEach((one, number) => {
    const middle = top + LINE * (number + 0.5), stroke = colour(one.colour);
    add(svg, "path", {d: `M64 ${middle}h16`, stroke, "stroke-width": 3, "stroke-dasharray": one.dashed ? "5 4" : "none"});
    write(svg, 86, middle + 4, one.name);
  });
}

function drawRows(parent, chart) {
  const left = 300, top = 34, height = 38, bottom = top + height * chart.rows.length, entries = chart.legend ?? [];
  const svg = figure(parent, chart.title, bottom + 48 + LINE * entries.length);
  const ends = chart.rows.map(row => Math.max(row.high ?? 0, (row.bar ?? []).reduce((sum, part) => sum + part[0], 0)));
  const x = scale(chart.x, ends, left, WIDTH - (chart.rows.some(row => row.text) ? 130 : 16));
  grid(svg, chart.x, x, top, bottom);
  chart.rows.forEach((row, number) => {
    const middle = top + height * (number + 0.5), end = {"text-anchor": "end"};
    if (!row.bar) return write(svg, 8, middle + 8, row.name, {"font-weight": "bold"});
    write(svg, left - 8, row.note ? middle - 2 : middle + 4, row.name, end);
    if (row.note) write(svg, left - 8, middle + 12, row.note, {...end, "font-size": 10, opacity: 0.7});
    let sum = 0;
    for (const [length, kind, text] of row.bar) {
      const from = x.at(sum), width = x.at(sum += length) - from;
      add(svg, "rect", {x: from, y: middle - 12, width, height: 24, fill: colour(kind)});
      if (text && width > 7 * text.length) write(svg, from + width / 2, middle + 4, text, {"text-anchor": "middle", fill: "white"});
    }
    if (row.high) add(svg, "path", {d: `M${x.at(row.low)} ${middle}H${x.at(row.high)}`, stroke: "currentColor", opacity: 0.6});
    if (row.text) write(svg, x.at(row.high ?? sum) + 6, middle + 4, row.text);
  });
  legend(svg, entries, bottom + 44);
}

function draw(parent, charts) {
  charts.forEach(chart => chart.rows ? drawRows(parent, chart) : drawSeries(parent, chart));
}
