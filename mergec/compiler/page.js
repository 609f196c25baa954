"use strict";
// Draws the page from its facts. What comes from a recipe or a checkpoint becomes text nodes and attribute values that
// are never parsed: no innerHTML, no handlers in attributes, no addresses but to lines of this page.

const facts = JSON.parse(document.getElementById("facts").textContent);
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== ""));
  return element;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const place = (line, text) => (line ? h("a", { href: `#L${line}` }, text) : text);
const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

const sections = [];
function section(id, title, lead, ...children) {
  sections.push([id, title]);
  document.getElementById("main").append(
    h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title),
      lead ? h("p", { class: "lead" }, lead) : null, ...children));
}
function table(head, rows, classes = [], style = "") {
  const cell = (tag) => (content, column) => h(tag, classes[column] ? { class: classes[column] } : {}, content);
  const body = rows.map((row) => h("tr", {}, row.map(cell("td"))));
  return h("div", { class: "scroll" }, h("table", { class: style },
    h("thead", {}, h("tr", {}, head.map((text, column) => fill(cell("th")(text, column), { scope: "col" }, [])))),
    h("tbody", {}, body)));
}

// Lets pointer and arrow keys walk along something; `show(number)` marks a step and returns its text, `show(-1)` none.
function walkable(element, label, steps, nearest, show) {
  let at = -1;
  const go = (number) => {
    at = number;
    const text = show(at);
    element.classList.toggle("live", at >= 0);
    if (at >= 0) fill(element, { "aria-valuenow": at, "aria-valuetext": text }, []);
  };
  fill(element, { tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": steps - 1,
    "aria-valuenow": 0, "aria-readonly": "true" }, []);
  element.addEventListener("pointermove", (event) => {
    const box = element.getBoundingClientRect();
    go(nearest(event.clientX - box.left, box.width));
  });
  element.addEventListener("pointerleave", () => go(-1));
  element.addEventListener("focus", () => { if (at < 0) go(0); });
  element.addEventListener("blur", () => go(-1));
  element.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: steps - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    go(Math.max(0, Math.min(steps - 1, moves[event.key])));
  });
  return element;
}

// ---------------------------------------------------------------------------------------------- head

function head() {
  document.title = `${facts.name} - mergec plan`;
  const figures = [...facts.result.slice(0, -1).map((text) => { const [number, ...noun] = text.split(" "); return [noun.join(" "), number]; }),
    ["read", facts.read], ["written", facts.written], ["memory at most", facts.peak]];
  document.getElementById("head").append(
    h("p", { class: "over" }, "mergec plan ", h("code", { title: facts.hash }, facts.hash.slice(0, 12))),
    h("h1", {}, facts.name),
    h("p", { class: "summary" }, h("b", {}, facts.method), `: ${facts.summary}`),
    facts.formula ? h("code", { class: "mono small" }, facts.formula) : "",
    h("dl", { class: "facts" }, figures.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)))),
    h("nav", { "aria-label": "parts of this page" }));
}

function warnings() {
  if (!facts.warnings.length) return;
  section("warnings", plural(facts.warnings.length, "warning"), "", h("ul", { class: "warnings" }, facts.warnings.map((one) =>
    h("li", {}, h("div", { class: "where" }, one.code ? h("span", { class: "code mono" }, one.code) : null,
      h("span", { class: "mono" }, place(one.line, one.place))), one.what))));
}

function models() {
  const rows = facts.models.map(([role, name, origin, note]) => [role, name, h("span", {}, origin), note]);
  section("models", "Models", "", table(["role", "model", "found at", ""], rows, ["soft fixed", "mono fixed", "mono grow", "soft fixed"]));
}

// ------------------------------------------------------------------------------------------ settings

const isNumber = (text) => text !== "" && Number.isFinite(Number(text));
const isConstant = (values) => values.every((value) => value === values[0]);

const title = ({ stage, name }) => (stage ? `${stage}: ${name}` : name);

// An entry of the recipe for the models that take it: a curve for each stack of layers, and a value outside of them.
function entries(setting) {
  const found = new Map();
  for (const curve of setting.curves) {
    const key = JSON.stringify([curve.models, curve.from, curve.filter]);
    if (!found.has(key)) found.set(key, { ...curve, stacks: [], outside: null });
    if (curve.stack) found.get(key).stacks.push(curve); else found.get(key).outside = curve;
  }
  return [...found.values()];
}

// The axis: the parameter's own range, if it has both ends; else from 0 to the next round number.
function scale(setting) {
  if (setting.low !== null && setting.high !== null) return [setting.low, setting.high];
  const numbers = setting.curves.flatMap((curve) => curve.values).filter(isNumber).map(Number);
  const low = Math.min(setting.low ?? 0, ...numbers), high = Math.max(setting.high ?? 0, ...numbers);
  const step = 10 ** Math.floor(Math.log10(high - low || 1)) / 2;
  const nice = (value, round) => Number((round(value / step) * step).toPrecision(6));
  return [nice(low, Math.floor), high > .3 && high <= 1 ? 1 : nice(high, Math.ceil) || 1];
}

const LEFT = 34, RIGHT = 5; // what the style sheet leaves beside the field

// The field is as wide as its card: both axes run from 0 to 100, and strokes do not scale.
function spark(setting, curve, label, [low, high], output) {
  const [first, last] = facts.stacks[curve.stack];
  const x = (layer) => (last > first ? 100 * (layer - first) / (last - first) : 50);
  const y = (value) => (high > low ? 100 * (high - Number(value)) / (high - low) : 50);
  const points = curve.layers.map((layer, number) => `${x(layer).toFixed(2)},${y(curve.values[number]).toFixed(2)}`);
  const base = y(Math.max(low, Math.min(high, 0))).toFixed(2);
  const begins = (number) => curve.layers[number - 1] !== curve.layers[number] - 1, ends = (number) => number + 1 === points.length || begins(number + 1);
  const line = points.map((point, number) => `${begins(number) ? "M" : "L"}${point}${begins(number) ? "h0" : ""}`).join("");
  const area = points.map((point, number) => `${begins(number) ? `M${x(curve.layers[number]).toFixed(2)},${base}` : ""}L${point}${ends(number) ? `V${base}Z` : ""}`).join("");
  const cursor = s("path", { class: "cursor" }), mark = s("path", { class: "mark" });
  const field = s("svg", { class: "field", viewBox: "0 0 100 100", preserveAspectRatio: "none" },
    [0, 100].map((at) => s("path", { class: "grid", d: `M0,${at}H100` })),
    s("path", { class: "area", d: area }), s("path", { class: "curve", d: line }),
    points.length <= 16 ? points.map((point) => s("path", { class: "dot", d: `M${point}h0` })) : [], cursor, mark);
  const picture = h("div", { class: "spark" }, field, h("span", { class: "axis high" }, String(high)), h("span", { class: "axis low" }, String(low)),
    h("span", { class: "first" }, `layer ${first}`), last > first ? h("span", { class: "last" }, String(last)) : "");
  const rest = output.textContent;
  const nearest = (at, width) => {
    const layer = first + (at - LEFT) / (width - LEFT - RIGHT) * (last - first);
    return curve.layers.reduce((best, each, number) => (Math.abs(each - layer) < Math.abs(curve.layers[best] - layer) ? number : best), 0);
  };
  return walkable(picture, `${title(setting)} of ${label} over the layers`, points.length, nearest, (number) => {
    output.textContent = number < 0 ? rest : `layer ${curve.layers[number]}: ${curve.values[number]}`;
    if (number >= 0) {
      fill(cursor, { d: `M${x(curve.layers[number])},0V100` }, []);
      fill(mark, { d: `M${points[number]}h0` }, []);
    }
    return output.textContent;
  });
}

function summary(values) {
  if (isConstant(values)) return values[0];
  if (!values.every(isNumber)) return "";
  const sorted = [...values].sort((a, b) => a - b);
  return `${sorted[0]} to ${sorted[sorted.length - 1]}`;
}

// Values that are no numbers, as runs of layers: `layers 0-3: sum`.
function runs(curve) {
  const found = [];
  curve.values.forEach((value, number) => {
    const before = found[found.length - 1];
    if (before && before[2] === value) before[1] = curve.layers[number]; else found.push([curve.layers[number], curve.layers[number], value]);
  });
  return h("ul", { class: "words" }, found.map(([a, b, value]) => h("li", {}, `layer${a === b ? ` ${a}` : `s ${a}-${b}`}: ${value}`)));
}

function plot(setting, entry, curve, range) {
  const label = entry.models || "all models", numeric = curve.values.every(isNumber);
  const output = h("output", {}, summary(curve.values));
  const foot = curve.stack && entry.outside ? `outside of the layers: ${entry.outside.values[0]}` : curve.tensors;
  const stack = entry.stacks.length > 1 ? h("span", { class: "chip" }, curve.stack) : null;
  return h("figure", { class: "plot" },
    h("figcaption", {}, h("span", { title: label }, h("span", { class: "mono" }, label),
      entry.filter === null ? null : h("span", { class: "chip", title: "filter" }, entry.filter), stack), output),
    curve.stack === "" ? "" : numeric ? spark(setting, curve, label, range, output) : runs(curve),
    h("div", { class: "foot" }, h("span", {}, curve.stack ? foot : `${foot} outside of the layers`),
      h("span", { title: entry.from }, place(entry.line, entry.from))));
}

function valueTable(setting, found) {
  const columns = found.flatMap((entry) => (entry.stacks.length ? entry.stacks : [entry.outside]).map((curve) => [entry, curve]));
  const name = ([entry, curve]) => [entry.models || "all models", entry.filter, entry.stacks.length > 1 ? curve.stack : null].filter(Boolean).join(", ");
  const inside = columns.map(([, curve]) => (curve.stack ? curve : { layers: [], values: [] }));
  const layers = [...new Set(inside.flatMap((curve) => curve.layers))].sort((a, b) => a - b);
  const rows = layers.map((layer) => [String(layer), ...inside.map((curve) => curve.values[curve.layers.indexOf(layer)] ?? "")]);
  rows.push(["outside", ...columns.map(([entry, curve]) => (entry.outside && (entry.stacks[0] ?? entry.outside) === curve ? entry.outside.values[0] : ""))]);
  const details = h("details", {}, h("summary", {}, `${title(setting)} as a table`));
  details.addEventListener("toggle", () => {
    if (details.children.length === 1) details.append(table(["layer", ...columns.map(name)], rows, ["", ...columns.map(() => "number")]));
  });
  return details;
}

function settings() {
  const isPlain = (setting) => setting.curves.every((curve) => curve.models === "" && isConstant(curve.values))
    && new Set(setting.curves.map((curve) => curve.values[0])).size <= 1;
  const isDefault = (setting) => setting.curves.every((curve) => curve.from === "default");
  const plotted = facts.settings.filter((setting) => !isPlain(setting) && !isDefault(setting));
  const plain = facts.settings.filter((setting) => !plotted.includes(setting));
  const blocks = plotted.map((setting) => {
    const range = scale(setting), found = entries(setting);
    const cells = found.flatMap((entry) => (entry.stacks.length ? entry.stacks : [entry.outside]).map((curve) => plot(setting, entry, curve, range)));
    return h("div", { class: "parameter", "data-name": title(setting) }, h("h3", {}, title(setting)), h("p", { class: "soft small" }, setting.what),
      h("div", { class: "plots" }, cells), valueTable(setting, found));
  });
  const rows = plain.map((setting) => {
    const curve = setting.curves[0];
    return [title(setting), curve ? curve.values[0] : "", setting.what, curve ? place(curve.line, curve.from) : ""];
  });
  section("settings", "Settings", "What every layer gets, and which line of the recipe says so.", ...blocks,
    rows.length ? h("div", { class: "parameter" }, table(["for all tensors alike", "value", "", "from"], rows, ["mono fixed", "mono fixed", "soft grow", "soft fixed"], "stacked")) : "");
}

// ------------------------------------------------------------------------------------------- tensors

const isRuns = (piece) => typeof piece !== "string";
const runsText = (piece) => (piece.length === 1 && piece[0][0] === piece[0][1] ? String(piece[0][0])
  : `{${piece.map(([a, b]) => (a === b ? a : `${a}-${b}`)).join(",")}}`);
const foldedText = (pieces) => pieces.map((piece) => (isRuns(piece) ? runsText(piece) : piece)).join("");

function unfolded(pieces) {
  let names = [""];
  for (const piece of pieces) {
    const endings = isRuns(piece) ? piece.flatMap(([a, b]) => Array.from({ length: b - a + 1 }, (_, step) => String(a + step))) : [piece];
    names = names.length === 1 ? endings.map((ending) => names[0] + ending) : names.flatMap((name) => endings.map((ending) => name + ending));
  }
  return names;
}

// A part of a name; with * or ? a pattern for the whole name, as `mergec explain --table` takes it.
function matcher(text) {
  const wanted = text.trim().toLowerCase();
  if (!/[*?]/.test(wanted)) return (name) => name.toLowerCase().includes(wanted);
  const pattern = new RegExp(`^${wanted.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".")}$`, "s");
  return (name) => pattern.test(name.toLowerCase());
}

const MOST_ROWS = 1000;

function tensors(showKind) {
  const kindOf = new Map(facts.kinds.flatMap((kind, number) => kind.names.flatMap(unfolded).map((name) => [name, number])));
  const groups = facts.tensors.map((pieces) => ({ pieces, names: unfolded(pieces) }));
  const total = groups.reduce((sum, group) => sum + group.names.length, 0);
  const body = h("tbody", {}), said = h("output", { class: "soft small", for: "filter" });
  const box = h("input", { type: "search", id: "filter", placeholder: "part of a name, or a pattern such as *.mlp.*", "aria-label": "show tensors whose name has", spellcheck: "false", autocomplete: "off" });
  const row = ({ pieces, names }, found) => {
    const kinds = [...new Set(found.map((name) => kindOf.get(name)))], of = facts.kinds[kinds[0]], matched = found.length;
    const link = h("button", { class: "link", type: "button" }, kinds.length > 1 ? `${kinds.length.toLocaleString("en")} graphs` : `graph ${kinds[0] + 1}`);
    link.addEventListener("click", () => showKind(kinds[0]));
    return h("tr", {}, h("td", { class: "mono" }, pieces.map((piece) => (isRuns(piece) ? h("b", {}, runsText(piece)) : piece))),
      h("td", { class: "mono soft fixed" }, of.type), h("td", { class: "number" }, matched < names.length ? `${matched.toLocaleString("en")} of ${names.length.toLocaleString("en")}` : names.length.toLocaleString("en")),
      h("td", { class: "number" }, of.each), h("td", { class: "soft fixed" }, of.work), h("td", { class: "fixed" }, link));
  };
  const narrow = () => {
    const matches = matcher(box.value);
    const found = groups.map((group) => [group, box.value.trim() ? group.names.filter(matches) : group.names]).filter(([, names]) => names.length);
    const size = found.reduce((sum, [, names]) => sum + names.length, 0);
    body.replaceChildren(...found.slice(0, MOST_ROWS).map(([group, names]) => row(group, names)));
    const more = found.length > MOST_ROWS ? `; the first ${MOST_ROWS.toLocaleString("en")} of ${found.length.toLocaleString("en")} rows are listed` : "";
    said.textContent = (size === total ? `all ${plural(total, "tensor")}` : `${size.toLocaleString("en")} of ${plural(total, "tensor")}`) + more;
  };
  box.addEventListener("input", narrow);
  section("tensors", "Tensors of the result", "", h("div", { class: "filter" }, box, said),
    h("div", { class: "scroll" }, h("table", { class: "tensors" }, h("thead", {}, h("tr", {}, ["name", "type", "tensors", "each", "made by", ""].map((text, column) =>
      h("th", { scope: "col", class: column === 2 || column === 3 ? "number" : "" }, text)))), body)));
  narrow();
}

// -------------------------------------------------------------------------------------------- graphs

const BOX = { width: 146, height: 40, across: 162, down: 70, pad: 14 };

function listing(kind, form) {
  return form.ops.map((op, number) => [`%${number} = ${op}`, ...form.inputs[number].map((input) => `%${input}`),
    facts.words[kind.attrs[number]], ":", facts.words[kind.types[number]]].filter(Boolean).join(" "));
}

function draw(kind, output) {
  const form = facts.forms[kind.form], text = listing(kind, form);
  const widest = Math.max(...form.xs, ...form.bends.flat());
  const width = widest * BOX.across + BOX.width + 2 * BOX.pad, height = Math.max(...form.rows) * BOX.down + BOX.height + 2 * BOX.pad;
  const x = (at) => BOX.pad + BOX.width / 2 + at * BOX.across, y = (row) => BOX.pad + row * BOX.down;
  const edges = [], nodes = [];
  const slots = [...kind.slots];
  form.ops.forEach((op, number) => {
    const last = (input) => { const bend = form.bends[input][form.rows[number] - form.rows[input] - 2]; return bend === undefined ? form.xs[input] : bend; };
    const sorted = [...form.inputs[number]].sort((a, b) => last(a) - last(b)), gap = Math.min(16, (BOX.width - 30) / Math.max(1, sorted.length));
    sorted.forEach((input, position) => {
      const end = [x(form.xs[number]) + (position - (sorted.length - 1) / 2) * gap, y(form.rows[number])];
      edges.push([number, s("path", { class: "edge", d: path(form, input, number, x, y, end), "data-edge": `${input} ${number}` })]);
    });
    const model = op === "load" ? facts.slots[slots.shift()] : "";
    const left = x(form.xs[number]) - BOX.width / 2, top = y(form.rows[number]);
    const under = model || facts.words[kind.attrs[number]] || facts.words[kind.spaces[number]];
    nodes.push(s("g", { class: `node ${facts.words[kind.spaces[number]]}`, tabindex: 0, role: "img", "aria-label": text[number], "data-node": number },
      s("rect", { class: "box", x: left, y: top, width: BOX.width, height: BOX.height, rx: 5 }),
      s("rect", { class: "tab", x: left, y: top + 8, width: 3.5, height: BOX.height - 16 }),
      s("text", { x: left + 12, y: top + 17 }, shorten(op, 17)), s("text", { class: "attrs", x: left + 12, y: top + 31 }, shorten(under, 19))));
  });
  nodes.forEach((node, number) => {
    const light = (on) => () => {
      node.classList.toggle("lit", on);
      for (const [target, edge] of edges) if (target === number) edge.classList.toggle("lit", on);
      output.textContent = on ? text[number] : HINT;
    };
    for (const name of ["pointerenter", "focus"]) node.addEventListener(name, light(true));
    for (const name of ["pointerleave", "blur"]) node.addEventListener(name, light(false));
  });
  return s("svg", { class: "graph", width: Math.ceil(width), height: Math.ceil(height), viewBox: `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`, role: "group",
    "aria-label": `graph of ${plural(form.ops.length, "node")}` }, edges.map(([, edge]) => edge), nodes);
}

const HINT = "Point at a node, or walk to it with the tab key, to read it in full.";
const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function path(form, input, number, x, y, end) {
  let at = [x(form.xs[input]), y(form.rows[input]) + BOX.height];
  let d = `M${at.map((value) => value.toFixed(1))}`;
  const curve = (to) => {
    const middle = (at[1] + to[1]) / 2;
    d += `C${[at[0], middle, to[0], middle, ...to].map((value) => value.toFixed(1))}`;
    at = to;
  };
  for (let row = form.rows[input] + 1; row < form.rows[number]; row += 1) {
    const bend = x(form.bends[input][row - form.rows[input] - 1]);
    curve([bend, y(row)]);
    at = [bend, y(row) + BOX.height];
    d += `V${at[1].toFixed(1)}`;
  }
  curve(end);
  return d;
}

function graphs() {
  const names = facts.kinds.map((kind) => kind.names.map(foldedText));
  const select = h("select", { "aria-label": "which graph" }, facts.kinds.map((kind, number) =>
    h("option", { value: number }, `${number + 1}. ${shorten(names[number][0], 70)}${names[number].length > 1 ? ` and ${plural(names[number].length - 1, "more group")}` : ""} (${kind.size})`)));
  const before = h("button", { type: "button", "aria-label": "the graph before" }, "←"), after = h("button", { type: "button", "aria-label": "the next graph" }, "→");
  const facing = h("p", { class: "lead" }), drawing = h("div", { class: "drawing" }), output = h("output", { class: "line" });
  const legend = h("ul", { class: "legend" }), text = h("pre", {}), made = h("ul", { class: "words" });
  const show = (number) => {
    const kind = facts.kinds[number];
    select.value = number;
    before.disabled = number === 0;
    after.disabled = number === facts.kinds.length - 1;
    facing.textContent = `${kind.size} of ${kind.type}, ${kind.all} in all; ${kind.work}.`;
    output.textContent = HINT;
    drawing.replaceChildren(draw(kind, output));
    const spaces = [...new Set(kind.spaces)].map((word) => facts.words[word]);
    legend.replaceChildren(...spaces.map((space) => h("li", {}, h("i", { class: space }), space)));
    text.textContent = listing(kind, facts.forms[kind.form]).join("\n");
    made.replaceChildren(...names[number].map((name) => h("li", {}, name)));
  };
  select.addEventListener("change", () => show(Number(select.value)));
  before.addEventListener("click", () => show(Number(select.value) - 1));
  after.addEventListener("click", () => show(Number(select.value) + 1));
  section("graphs", facts.kinds.length === 1 ? "The graph" : `${facts.kinds.length.toLocaleString("en")} graphs`,
    "Tensors of one shape and with the same settings share a graph. The colours are spaces: a weight is a point, a delta the difference of two.",
    h("div", { class: "pick" }, select, before, after), facing, drawing, legend, output,
    h("details", {}, h("summary", {}, "this graph as text"), text), h("details", {}, h("summary", {}, "the tensors it makes"), made));
  if (facts.kinds.length) show(0);
  return (number) => { show(number); document.getElementById("graphs").scrollIntoView(); select.focus({ preventScroll: true }); };
}

// --------------------------------------------------------------------------------------------- files

function bar(file, largest, said) {
  const tone = (layer) => (layer === -2 ? "header" : layer === -1 ? "outside" : layer % 2 ? "odd" : "even");
  const pieces = file.segments.map(([begin, end, , layer]) =>
    s("rect", { class: tone(layer), x: `${(100 * begin / largest).toFixed(3)}%`, width: `${(100 * (end - begin) / largest).toFixed(3)}%`, height: "100%" }));
  const picture = s("svg", { class: "bar" }, pieces);
  const nearest = (at, width) => { const found = file.segments.findIndex(([, end]) => at / width * largest < end); return found < 0 ? file.segments.length - 1 : found; };
  walkable(picture, `tensors of ${file.row[0]} by size`, pieces.length, nearest, (number) => {
    for (const [each, piece] of pieces.entries()) piece.classList.toggle("lit", each === number);
    said.textContent = number < 0 ? "" : file.segments[number][2];
    return said.textContent;
  });
  const [name, size, holds] = file.row;
  return h("div", { class: "file" }, h("p", {}, h("code", {}, name), h("span", { class: "soft" }, `${size}, ${holds}`)), picture);
}

function files() {
  const largest = Math.max(...facts.files.map((file) => file.bytes));
  const said = h("output", { class: "said" });
  const seen = facts.files.some((file) => file.segments[0][1] > largest / 100); // headers are mostly too small to see
  const legend = [["even", "even layers"], ["odd", "odd layers"], ["outside", "outside of the layers"], ...(seen ? [["header", "header"]] : [])];
  section("files", "Files", `${facts.result.join(", ")}. A bar is a file, a piece of it a tensor; thin neighbours are drawn as one.`,
    h("ul", { class: "legend" }, legend.map(([tone, text]) => h("li", {}, h("i", { class: tone }), text))),
    h("div", { class: facts.files.length > 8 ? "files many" : "files" }, facts.files.map((file) => bar(file, largest, said))), said);
}

function work() {
  section("work", "Work and memory", `Reads ${facts.read}, writes ${facts.written}; ${facts.memory}.`,
    table(["class", "tensors", "bytes", "how"], facts.work, ["mono fixed", "fixed", "fixed", "soft grow"]));
  if (!facts.statistics.length) return;
  section("statistics", "Statistics of the whole model", "Found first, by sweeps over all the tensors that feed them.",
    table(["name", "what it is", "over", "reads"], facts.statistics, ["mono", "mono", "fixed", "fixed grow"]));
}

function recipe() {
  const rows = facts.recipe.text.replace(/\n$/, "").split("\n").map((line, number) => {
    const comment = /(^|\s)#.*$/.exec(line), code = comment ? line.slice(0, comment.index) : line;
    return h("li", { id: `L${number + 1}` }, code, comment ? h("i", {}, comment[0]) : null);
  });
  section("recipe", "The recipe", h("code", {}, facts.recipe.file), h("ol", { class: "recipe", tabindex: 0 }, rows));
}

function notes() {
  if (facts.notes.length) section("notes", "Notes", "", h("ul", { class: "notes" }, facts.notes.map((note) => h("li", {}, note))));
}

head();
warnings();
models();
settings();
const showKind = graphs();
files();
work();
tensors(showKind);
recipe();
notes();
document.querySelector("nav").append(...sections.map(([id, title]) => h("a", { href: `#${id}` }, title)));
