"use strict";
// The page's data: columns by name, one value a line or one for all.
const data = JSON.parse(document.getElementById("data").textContent);
function field(name, row) {
  const column = data.columns[name];
  if (column === undefined) return null;
  return Array.isArray(column) ? column[row] : column.all;
}
function short(value) {
  if (typeof value !== "number") return value === null ? "not measured" : String(value);
  const size = Math.abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-3)) return value.toExponential(3);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toPrecision(5)));
}

// Pointing at a figure shows the nearest mark: its cell, its config, its values.
const tip = document.createElement("div");
tip.id = "tip";
tip.setAttribute("role", "status");
document.body.append(tip);
function rows(text) {
  return text.split(",").flatMap((part) => {
    const [low, high] = part.split("-").map(Number);
    return Array.from({ length: (high ?? low) - low + 1 }, (_, i) => low + i);
  });
}
const marks = new WeakMap();
function marksOf(svg) {
  if (marks.has(svg)) return marks.get(svg);
  const found = [];
  for (const group of svg.querySelectorAll("g.run")) {
    const lines = rows(group.dataset.rows);
    const places = group.querySelector(".dots").getAttribute("d").matchAll(/M([\d.-]+) ([\d.-]+)/g);
    [...places].forEach((place, i) =>
      found.push({ x: Number(place[1]), y: Number(place[2]), group, row: lines[i] }));
  }
  for (const group of svg.querySelectorAll("g.mark")) {
    const [x, y] = group.dataset.at.split(" ").map(Number);
    found.push({ x, y, group, row: null });
  }
  marks.set(svg, found);
  return found;
}
const SHAPE = ["num_experts", "top_k", "d_model", "total_params", "active_params", "tokens", "train_loss"];
function tipText(svg, mark) {
  const lines = [];
  if (mark.row !== null) {
    lines.push(`${field("cell", mark.row)}, seed ${short(field("seed", mark.row))}`);
    lines.push(`step ${short(field("step", mark.row))}`);
    for (const name of SHAPE) {
      const value = field(name, mark.row);
      if (value !== null) lines.push(`${name} ${short(value)}`);
    }
    const column = svg.dataset.column;
    if (column) lines.push(`${svg.dataset.y}: ${short(field(column, mark.row))}`);
  } else {
    if (mark.group.dataset.cell) lines.push(mark.group.dataset.cell);
    if (mark.group.dataset.tip) lines.push(...mark.group.dataset.tip.split("\n"));
    const [x, y] = mark.group.dataset.v.split(" ").map(Number);
    lines.push(`${svg.dataset.x}: ${short(x)}`, `${svg.dataset.y}: ${short(y)}`);
  }
  return lines;
}
const NEAR = 24; // pixels of the figure within which a mark is meant
function showTip(svg, event) {
  const box = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / box.width;
  const x = (event.clientX - box.left) * scale;
  const y = (event.clientY - box.top) * scale;
  let best = null, nearest = NEAR;
  for (const mark of marksOf(svg)) {
    if (mark.group.classList.contains("dim")) continue;
    const distance = Math.hypot(mark.x - x, mark.y - y);
    if (distance < nearest) { nearest = distance; best = mark; }
  }
  svg.querySelector(".pointed")?.remove();
  if (best === null) { tip.style.display = "none"; return; }
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [name, value] of [["cx", best.x], ["cy", best.y], ["r", 7], ["class", "pointed"]])
    ring.setAttribute(name, value);
  svg.append(ring);
  const [first, ...rest] = tipText(svg, best);
  const head = document.createElement("strong");
  head.textContent = first;
  tip.replaceChildren(head, ...rest.flatMap((line) => [document.createElement("br"), line]));
  tip.style.display = "block";
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 18 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(left, 4) + scrollX}px`;
  tip.style.top = `${event.clientY + scrollY + (below ? 18 : -tip.offsetHeight - 12)}px`;
}
for (const svg of document.querySelectorAll("svg.chart")) {
  svg.addEventListener("pointermove", (event) => showTip(svg, event));
  svg.addEventListener("pointerdown", (event) => showTip(svg, event));
  svg.addEventListener("pointerleave", () => {
    tip.style.display = "none";
    svg.querySelector(".pointed")?.remove();
  });
}

// Filters: every word must be in the cell's name or be its config, as in "E16 k2" or "64".
const cellField = document.getElementById("filter-cell");
const seedField = document.getElementById("filter-seed");
const shown = document.getElementById("filter-shown");
const shapes = new Map();
for (let row = 0; row < data.rows; row++) {
  const cell = field("cell", row);
  if (!shapes.has(cell)) {
    const names = [["num_experts", "E"], ["top_k", "k"], ["d_model", "d"], ["num_layers", "L"]];
    const words = names.map(([name, letter]) => `${letter}${field(name, row)}`);
    shapes.set(cell, `${cell} ${words.join(" ")}`.toLowerCase());
  }
}
function wanted(cell) {
  const words = cellField.value.toLowerCase().split(/\s+/).filter(Boolean);
  const known = shapes.get(cell) ?? String(cell).toLowerCase();
  const parts = new Set(known.split(/[^a-z0-9.]+/));
  // A letter with a number is a config and must be met whole: "k2" is not "k256".
  return words.every((word) => (/^[a-z]\d+$/.test(word) ? parts.has(word) : known.includes(word)));
}
function filter() {
  const seed = seedField.value;
  for (const group of document.querySelectorAll("svg.chart g[data-cell]")) {
    const { cell, seed: own } = group.dataset;
    group.classList.toggle("dim", !wanted(cell) || (seed !== "" && own !== undefined && own !== seed));
  }
  for (const row of document.querySelectorAll("table.by-cell tbody tr"))
    row.hidden = !wanted(row.cells[0].textContent.trim());
  const cells = [...shapes.keys()];
  const count = cells.filter(wanted).length;
  shown.textContent = `${count} of ${cells.length} cells`;
  for (const svg of document.querySelectorAll("svg.chart"))
    svg.classList.toggle("filtered", count < cells.length || seed !== "");
}
if (cellField) {
  const seeds = new Set();
  for (let row = 0; row < data.rows; row++) seeds.add(field("seed", row));
  for (const seed of [...seeds].sort((a, b) => a - b)) seedField.append(new Option(`seed ${seed}`, seed));
  cellField.addEventListener("input", filter);
  seedField.addEventListener("change", filter);
  document.getElementById("filter-none").addEventListener("click", () => {
    cellField.value = "";
    seedField.value = "";
    filter();
  });
  filter();
}

// Downloads are made of the data in the page.
function save(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
function quoted(value) {
  if (value === null) return "";
  const text = String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
const names = Object.keys(data.columns);
document.getElementById("save-csv")?.addEventListener("click", () => {
  const lines = [names.map(quoted).join(",")];
  for (let row = 0; row < data.rows; row++) lines.push(names.map((name) => quoted(field(name, row))).join(","));
  save("table.csv", "text/csv", lines.join("\n") + "\n");
});
document.getElementById("save-json")?.addEventListener("click", () => {
  const lines = Array.from({ length: data.rows }, (_, row) =>
    Object.fromEntries(names.map((name) => [name, field(name, row)])));
  save("table.json", "application/json", JSON.stringify(lines));
});
for (const button of document.querySelectorAll("button.save-svg")) {
  button.addEventListener("click", () => {
    const svg = button.closest("figure").querySelector("svg");
    save(`${svg.dataset.name}.svg`, "image/svg+xml", svg.outerHTML);
  });
}

// A click on a column's name sorts by it; missing figures stay at the end.
function value(row, column) {
  const text = row.cells[column].textContent.trim();
  if (text === "" || text === "–") return null;
  const match = text.match(/^[+-]?\d[\d.]*(e[+-]?\d+)?/i);
  const unit = { K: 1e3, k: 1e3, M: 1e6, B: 1e9, T: 1e12 };
  return match ? Number(match[0]) * (unit[text[match[0].length]] || 1) : text;
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const lines = [...table.tBodies[0].rows].map((row) => [row, value(row, column)]);
      lines.sort(([, a], [, b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * compare(a, b);
      });
      table.tBodies[0].append(...lines.map(([row]) => row));
    });
  });
}
