
"use strict";
// The data are lines of JSON: what all have in common, each submission, the excerpts by number. Whatever stands in them is
// put on the page as text, never as markup.
const [about, ...submissions] = document.getElementById("data").textContent.trim().split("\n").map(line => JSON.parse(line));
const excerpts = submissions.pop();
const ORDER = ["AC", "WA", "TLE", "RTE", "MLE", "OLE", "CE", "JE"];
const SVG = "http://www.w3.org/2000/svg";
const MOST_DOTS = 3000;
const narrow = matchMedia("(max-width: 40rem)");

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(text);
  return element;
}

const seconds = value => value == null ? "" : value < 0.9995 ? `${(value * 1000).toFixed(0)} ms` : `${value.toFixed(2)} s`;
const bytes = value => value == null ? "" : value < 1048576 ? `${(value / 1024).toFixed(0)} KiB` : `${(value / 1048576).toFixed(1)} MiB`;
const number = value => value == null ? "" : String(Math.round(value * 1000) / 1000);
const points = (score, most) => score == null ? "" : most == null ? number(score) : `${number(score)} / ${number(most)}`;
const chip = verdict => make("span", { class: `v ${verdict}`, title: about.words[verdict] }, verdict);
// A path may go on in another line after each of its folders, and a long name after each of its words.
const broken = name => name.split(/(?<=[/_])/).flatMap(part => [part, document.createElement("wbr")]);

// A test goes by the last parts of its name: as few as tell it from all others.
const short = (() => {
  const ending = (name, parts) => name.split("/").slice(-parts).join("/");
  const labels = new Map(about.tests.map(name => [name, ending(name, 1)]));
  for (let parts = 2; parts < 9; parts++) {
    const once = new Set(), twice = new Set();
    for (const label of labels.values()) (once.has(label) ? twice : once).add(label);
    for (const [name, label] of labels) if (twice.has(label)) labels.set(name, ending(name, parts));
  }
  return name => labels.get(name);
})();

for (const one of submissions) {
  const tests = Object.values(one.tests);
  const highest = name => tests.reduce((most, test) => test[name] == null ? most : Math.max(most ?? 0, test[name]), null);
  one.wall = highest("wall");
  one.memory = highest("memory");
}

// The columns before the tests: title, what to sort by, what to show.
const columns = [
  { title: "submission", key: one => one.name, name: true },
  { title: "verdict", key: one => ORDER.indexOf(one.verdict), show: one => chip(one.verdict) },
];
if (submissions.some(one => one.score != null))
  columns.push({ title: "score", key: one => one.score, show: one => points(one.score, one.max_score), n: true });
if (submissions.some(one => one.as_expected != null))
  columns.push({ title: "expected", key: one => one.as_expected == null ? 2 : Number(one.as_expected), show: expectation });
columns.push({ title: "slowest", key: one => one.wall, show: one => seconds(one.wall), n: true, less: true });
columns.push({ title: "memory", key: one => one.memory, show: one => bytes(one.memory), n: true, less: true });
about.tests.forEach((name, index) => columns.push({
  title: name, key: one => one.tests[index] ? ORDER.indexOf(one.tests[index].verdict) : null, test: index,
}));

// On a phone there is no room for what is told when a submission is opened.
const place = column => `${column.n ? "n" : ""} ${column.less ? "less" : ""}`.trim();

function expectation(one) {
  if (one.as_expected == null) return "";
  const allowed = one.expected.join(" or ");
  return one.as_expected ? make("span", { title: allowed }, "✓") : make("span", { class: "no", title: allowed }, "✗", make("span", {}, ` ${allowed}`));
}

const grid = document.getElementById("grid");
const [head, body] = [grid.querySelector("thead"), grid.querySelector("tbody")];
const sorted = { by: -1, down: false };

const headings = columns.map((column, index) => {
  const shown = column.test == null ? column.title : short(column.title);
  const heading = make("th", { scope: "col", "aria-sort": "none" }, make("button", { type: "button", "data-sort": index, title: `sort by ${column.title}` }, shown));
  heading.className = column.name ? "name" : column.test == null ? place(column) : "t";
  return heading;
});
head.append(make("tr", {}, ...headings));

const rows = submissions.map((one, number) => {
  const row = make("tr");
  for (const column of columns) {
    if (column.name) row.append(make("th", { scope: "row", class: "name" }, make("button", { type: "button", "data-s": number, title: one.name }, ...broken(one.name))));
    else if (column.test == null) row.append(make("td", { class: place(column) }, column.show(one)));
    else {
      const test = one.tests[column.test];
      row.append(make("td", { class: "c" }, test
        ? make("button", { type: "button", class: test.verdict, "data-s": number, "data-t": column.test, title: `${one.name}, ${column.title}: ${about.words[test.verdict]}` }, test.verdict)
        : make("span", { class: "none", title: "not run" }, "·")));
    }
  }
  return row;
});
body.append(...rows);

function sort(index) {
  sorted.down = sorted.by === index && !sorted.down;
  sorted.by = index;
  const { key } = columns[index];
  const keyed = submissions.map((one, number) => [key(one), number]);
  const text = new Intl.Collator(undefined, { numeric: true });
  keyed.sort(([a, i], [b, j]) => {
    if (a == null || b == null) return (a == null) - (b == null) || i - j; // what is not known comes last
    const order = typeof a === "string" ? text.compare(a, b) : a - b;
    return (sorted.down ? -order : order) || i - j;
  });
  body.append(...keyed.map(([, number]) => rows[number]));
  headings.forEach((heading, at) => heading.setAttribute("aria-sort", at === index ? (sorted.down ? "descending" : "ascending") : "none"));
}

// Above the grid: how many got which verdict, and what to show.
const counts = ORDER.map(verdict => [verdict, submissions.filter(one => one.verdict === verdict).length]).filter(([, count]) => count);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
document.getElementById("summary").textContent = [
  plural(submissions.length, "submission"), plural(about.tests.length, "test"),
  about.time_limit == null ? "" : `time limit ${number(about.time_limit)} s`,
].filter(Boolean).join(" · ");
const bar = document.getElementById("bar");
bar.setAttribute("aria-label", counts.map(([verdict, count]) => `${count} ${about.words[verdict]}`).join(", "));
for (const [verdict, count] of counts) {
  const part = make("div", { class: verdict, title: `${count} ${about.words[verdict]}` });
  part.style.flexGrow = count;
  bar.append(part);
  document.getElementById("legend").append(make("li", {}, chip(verdict), ` ${about.words[verdict]}: ${count}`));
}
const [search, verdicts] = [document.getElementById("search"), document.getElementById("verdicts")];
for (const [verdict] of counts) verdicts.append(make("option", { value: verdict }, about.words[verdict]));
const unexpected = document.getElementById("unexpected");
unexpected.hidden = !submissions.some(one => one.as_expected === false);

function filter() {
  const wanted = search.value.toLowerCase();
  const surprises = unexpected.querySelector("input").checked;
  submissions.forEach((one, number) => {
    rows[number].hidden = !one.name.toLowerCase().includes(wanted)
      || Boolean(verdicts.value && one.verdict !== verdicts.value)
      || (surprises && one.as_expected !== false);
  });
}
document.getElementById("filters").addEventListener("input", filter);
document.getElementById("filters").addEventListener("submit", event => event.preventDefault());

// One test of one submission, or a submission.
const dialog = document.getElementById("detail");
const sheet = dialog.querySelector(".sheet");
let open = null;

function show(s, t) {
  const one = submissions[s];
  if (!one || (t != null && !one.tests[t])) return;
  open = [s, t];
  const title = make("h2", { id: "detail-title" }, t == null ? one.name : `${one.name} · ${about.tests[t]}`);
  const buttons = [["←", -1, "previous test"], ["→", 1, "next test"]].map(([sign, step, label]) => {
    const button = make("button", { type: "button", "aria-label": label, title: label }, sign);
    button.addEventListener("click", () => turn(step));
    return button;
  });
  const close = make("button", { type: "button", "aria-label": "close" }, "✕");
  close.addEventListener("click", () => dialog.close());
  sheet.replaceChildren(make("div", { class: "top" }, title, ...buttons, close), ...(t == null ? ofSubmission(one) : ofTest(one.tests[t])));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  history.replaceState(null, "", `#${s + 1}${t == null ? "" : `.${t + 1}`}`);
}

function turn(step) {
  const [s, t] = open;
  const known = Object.keys(submissions[s].tests).map(Number);
  const next = t == null ? (step > 0 ? 0 : known.length - 1) : known.indexOf(t) + step;
  if (known[next] != null) show(s, known[next]);
}

function facts(...pairs) {
  const list = make("ul", { class: "facts" });
  for (const [name, value] of pairs)
    if (value) list.append(make("li", {}, make("span", { class: "quiet" }, `${name} `), make("b", {}, value)));
  return list;
}

const section = (title, ...children) => [make("h2", {}, title), ...children];

function ofSubmission(one) {
  const parts = [facts(["verdict", chip(one.verdict)], ["", about.words[one.verdict]], ["score", points(one.score, one.max_score)],
    ["slowest test", seconds(one.wall)], ["most memory", bytes(one.memory)], ["expected", one.expected ? one.expected.join(" or ") : ""])];
  if (one.message) parts.push(...section("Message", make("pre", {}, one.message)));
  const groups = one.groups.filter(([name]) => name);
  if (groups.length) {
    const list = groups.map(([name, verdict, score, most]) => make("li", {}, chip(verdict), ` ${name} `, make("b", {}, points(score, most))));
    parts.push(...section("Groups", make("ul", { class: "facts" }, ...list)));
  }
  return parts;
}

function ofTest(test) {
  const parts = [facts(["verdict", chip(test.verdict)], ["", about.words[test.verdict]], ["score", points(test.score, test.max_score)],
    ["time", seconds(test.wall)], ["CPU", seconds(test.cpu)], ["memory", bytes(test.memory)], ["", test.hidden ? "hidden" : ""])];
  if (test.message) parts.push(...section("Message", make("pre", {}, test.message)));
  if (test.feedback) parts.push(...section("Feedback", make("pre", {}, test.feedback)));
  const [input, expected, actual] = [test.input, test.expected, test.actual].map(number => excerpts[number]);
  if (expected != null && actual != null)
    parts.push(...section("Expected and actual output", difference(expected, actual)));
  else if (expected != null) parts.push(...section("Expected output", make("pre", {}, visible(expected))));
  else if (actual != null) parts.push(...section("Actual output", make("pre", {}, visible(actual))));
  if (input != null) parts.push(...section("Input", make("pre", {}, visible(input))));
  if (test.cut) parts.push(make("p", { class: "quiet" }, "What is shown here is cut: there was more."));
  return parts;
}

// Control characters by their numbers, so that they are seen.
const visible = text => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, letter => `\\x${letter.charCodeAt(0).toString(16).padStart(2, "0")}`);

// What two sequences have in common: pairs of places, by the longest common subsequence.
function common(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let [endA, endB] = [a.length, b.length];
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
  const pairs = [];
  for (let i = 0; i < start; i++) pairs.push([i, i]);
  const [rows, wide] = [endA - start, endB - start];
  if (rows && wide && rows * wide <= 1e6) {
    const lengths = new Uint16Array((rows + 1) * (wide + 1));
    const at = (i, j) => i * (wide + 1) + j;
    for (let i = rows - 1; i >= 0; i--)
      for (let j = wide - 1; j >= 0; j--)
        lengths[at(i, j)] = a[start + i] === b[start + j] ? lengths[at(i + 1, j + 1)] + 1 : Math.max(lengths[at(i + 1, j)], lengths[at(i, j + 1)]);
    for (let i = 0, j = 0; i < rows && j < wide;) {
      if (a[start + i] === b[start + j]) pairs.push([start + i++, start + j++]);
      else if (lengths[at(i + 1, j)] >= lengths[at(i, j + 1)]) i++;
      else j++;
    }
  }
  for (let i = endA; i < a.length; i++) pairs.push([i, endB + i - endA]);
  return pairs;
}

// Lines side by side, or one below the other where there is no room.
function difference(expected, actual) {
  // The line break at the very end is shown only where one side has it and the other has not.
  const ended = expected.endsWith("\n") && actual.endsWith("\n");
  const [left, right] = [expected, actual].map(text => visible(ended ? text.slice(0, -1) : text).split("\n"));
  const table = make("table", { class: "diff" });
  const both = !narrow.matches;
  const numbered = (index, name) => make("td", { class: `line ${name}` }, index == null ? "" : String(index + 1));
  const cell = (parts, name, span = 1) => make("td", { class: name, colspan: span }, ...parts);
  const titles = both ? [["Expected", 2], ["Actual", 2]] : [["Expected (−) and actual (+)", 2]];
  const column = name => make("col", { class: name });
  table.append(make("colgroup", {}, ...(both ? ["line", "", "line", ""] : ["line", ""]).map(column)));
  table.append(make("thead", {}, make("tr", {}, ...titles.map(([title, span]) => make("th", { colspan: span }, title)))));
  const lines = make("tbody");
  const put = (i, j) => {
    const [from, to] = i != null && j != null ? words(left[i], right[j]) : [[left[i] ?? ""], [right[j] ?? ""]];
    const same = i != null && j != null && left[i] === right[j];
    if (same) lines.append(make("tr", {}, numbered(i, ""), cell(from, ""), ...(both ? [numbered(j, ""), cell(to, "")] : [])));
    else if (both) lines.append(make("tr", {},
      ...(i == null ? [numbered(null, "gone"), cell([], "gone")] : [numbered(i, "del"), cell(from, "del")]),
      ...(j == null ? [numbered(null, "gone"), cell([], "gone")] : [numbered(j, "add"), cell(to, "add")])));
    else {
      if (i != null) lines.append(make("tr", {}, numbered(i, "del"), cell(["− ", ...from], "del")));
      if (j != null) lines.append(make("tr", {}, numbered(j, "add"), cell(["+ ", ...to], "add")));
    }
  };
  let [i, j] = [0, 0];
  for (const [nextI, nextJ] of [...common(left, right), [left.length, right.length]]) {
    while (i < nextI && j < nextJ) put(i++, j++);
    while (i < nextI) put(i++, null);
    while (j < nextJ) put(null, j++);
    if (i < left.length && j < right.length) put(i++, j++);
  }
  table.append(lines);
  return table;
}

// Two lines with the words marked that the other does not have.
function words(from, to) {
  if (from === to) return [[from], [to]];
  const [a, b] = [from, to].map(line => line.match(/\s+|\S+/g) ?? []);
  const pairs = common(a, b);
  return [[a, new Set(pairs.map(([i]) => i))], [b, new Set(pairs.map(([, j]) => j))]].map(([parts, kept]) =>
    parts.map((part, index) => kept.has(index) ? part : make("mark", {}, part)));
}

// Time and memory, a column for each test: the range of all submissions, and each as a dot.
const ending = label => label.length > 8 ? `…${label.slice(-7)}` : label;

function plot(title, name, told, scale, limit) {
  const dots = [];
  submissions.forEach((one, s) => Object.entries(one.tests).forEach(([t, test]) => {
    if (test[name] != null) dots.push({ s, t: Number(t), value: test[name], verdict: test.verdict });
  }));
  if (!dots.length) return;
  const [width, height, left, bottom] = [narrow.matches ? 350 : 620, 230, 62, 22];
  const highest = dots.reduce((most, dot) => Math.max(most, dot.value), limit ?? 0) || scale;
  const power = 10 ** Math.floor(Math.log10(highest / scale));
  const first = highest / scale / power;
  const unit = (first > 5 ? 2 : first > 2 ? 1 : 0.5) * power * scale;
  const top = Math.ceil(highest / unit) * unit;
  const x = t => left + (t + 0.5) * (width - left - 8) / about.tests.length;
  const y = value => 8 + (height - bottom - 8) * (1 - value / top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} of each test` });
  for (let value = 0; value <= top + unit / 2; value += unit) {
    svg.append(draw("line", { class: "axis", x1: left, x2: width - 8, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, told(value)));
  }
  const every = Math.ceil(about.tests.length / (width / 40));
  about.tests.forEach((test, t) => {
    if (t % every === 0) svg.append(draw("text", { x: x(t), y: height - 6, "text-anchor": "middle" }, ending(short(test))));
    const values = dots.filter(dot => dot.t === t).map(dot => dot.value);
    if (values.length > 1) svg.append(draw("line", { class: "range", x1: x(t), x2: x(t), y1: y(Math.min(...values)), y2: y(Math.max(...values)) }));
  });
  if (limit != null) {
    svg.append(draw("line", { class: "limit", x1: left, x2: width - 8, y1: y(limit), y2: y(limit) }));
  }
  // Where there are too many, the highest tell most.
  const drawn = dots.length <= MOST_DOTS ? dots : dots.toSorted((a, b) => b.value - a.value).slice(0, MOST_DOTS);
  const shift = submissions.length > 1 ? Math.min(6, 0.3 * (width - left) / about.tests.length) : 0;
  for (const dot of drawn) {
    const aside = submissions.length > 1 ? shift * (2 * dot.s / (submissions.length - 1) - 1) : 0;
    const circle = draw("circle", { class: dot.verdict, cx: x(dot.t) + aside, cy: y(dot.value), r: 4, "data-s": dot.s, "data-t": dot.t });
    circle.append(draw("title", {}, `${submissions[dot.s].name}, ${about.tests[dot.t]}: ${told(dot.value)}`));
    svg.append(circle);
  }
  const note = limit == null ? "" : `  limit ${told(limit)}`;
  document.getElementById("plots").append(make("figure", {}, make("figcaption", {}, title, make("span", {}, note)), svg));
}
plot("Wall time", "wall", value => value === 0 ? "0" : seconds(value), 1, about.time_limit);
plot("Memory", "memory", value => value === 0 ? "0" : bytes(value), 1048576, null);

document.addEventListener("click", event => {
  if (event.target === dialog) return dialog.close(); // beside the sheet
  const chosen = event.target.closest("[data-sort], [data-s]");
  if (!chosen) return;
  if (chosen.dataset.sort) sort(Number(chosen.dataset.sort));
  else show(Number(chosen.dataset.s), chosen.dataset.t == null ? null : Number(chosen.dataset.t));
});
dialog.addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
narrow.addEventListener("change", () => { if (dialog.open) show(...open); });

const linked = location.hash.match(/^#(\d+)(?:\.(\d+))?$/);
if (linked) show(linked[1] - 1, linked[2] ? linked[2] - 1 : null);
