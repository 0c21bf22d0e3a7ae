"""Holds the style and the script of the page."""

from __future__ import annotations

from ..figures.style import BLUE, GRAY, VERMILION

STYLE = f"""
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; max-width: 90rem; padding: 1rem; font: 1rem/1.45 system-ui, sans-serif; color: #111 }}
h1 {{ font-size: 1.5rem; margin: 0 }}
h2 {{ font-size: 1.15rem; margin: 1.8rem 0 .6rem }}
h3 {{ font-size: 1rem; font-weight: normal; margin: .8rem 0 0 }}
h3 b {{ color: {VERMILION} }}
.notice, small {{ color: {GRAY} }}
.counts {{ display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; list-style: none }}
.counts li {{ border-left: .4rem solid {GRAY}; background: #f3f3f3; padding: .3rem .8rem }}
.counts b {{ display: block; font-size: 1.5rem }}
.counts .in {{ border-color: {BLUE} }}
.counts .out {{ border-color: {VERMILION} }}
.counts .failed {{ border-color: #000 }}
dl {{ display: grid; grid-template-columns: fit-content(14rem) 1fr; gap: .15rem 1rem; margin: .6rem 0 }}
dt {{ color: {GRAY} }}
dd {{ margin: 0; overflow-wrap: break-word; min-width: 0 }}
svg {{ width: 100%; max-width: 52rem; height: auto; display: block; overflow: visible; font-size: 13px }}
.above {{ paint-order: stroke; stroke: #fff; stroke-width: 4px }}
.mark.chosen {{ stroke: #000; stroke-width: 3 }}
.controls {{ display: none; flex-wrap: wrap; gap: .6rem; align-items: center; margin: .6rem 0 }}
.scripted .controls {{ display: flex }}
input, select, button {{ font: inherit }}
.legend {{ display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none }}
.legend svg {{ display: inline-block; width: .8rem; margin-right: .3rem }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .4rem .35rem; border-bottom: 1px solid #ccc }}
th {{ vertical-align: bottom }}
td {{ overflow-wrap: break-word }}
td.name, td.group, td.reasons {{ overflow-wrap: anywhere }}
td.name {{ min-width: 8.5rem }}
td.group {{ min-width: 8rem }}
td.reasons {{ min-width: 16rem; font-size: .9rem }}
td.number, .figures td {{ white-space: nowrap }}
td.oodm, td.expected_dice {{ white-space: normal }}
.figures {{ width: auto }}
.figures td, .number {{ font-variant-numeric: tabular-nums }}
th button {{ border: 0; background: none; padding: 0; font-weight: bold; cursor: pointer; text-align: left }}
th button:disabled {{ color: inherit }}
[aria-sort=ascending] button::after {{ content: " \\25B2" }}
[aria-sort=descending] button::after {{ content: " \\25BC" }}
tr.out .verdict b {{ color: {VERMILION} }}
tr.in .verdict b {{ color: {BLUE} }}
tr.out {{ background: #fdf3ec }}
.look {{ border: 0; padding: 0; background: none; cursor: zoom-in }}
.look img {{ display: block; width: clamp(8rem, 11vw, 15rem); max-height: 12rem }}
.look img, #view > img {{ object-fit: contain; background: #000 }}
dialog {{ width: min(96vw, 70rem); max-height: 96vh; border: 1px solid {GRAY}; padding: 1rem; overflow: auto }}
#view > img {{ width: 100%; max-height: 60vh }}
figure {{ margin: 0; min-width: 0 }}
figure img {{ max-width: 100%; height: auto }}
.gallery {{ grid-column: 1 / -1; overflow-x: auto }}
.gallery img {{ min-width: 48rem }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem }}
@media (max-width: 73rem) {{
  #scans table, #scans tbody, #scans td {{ display: block }}
  #scans thead tr {{ display: flex; flex-wrap: wrap; align-items: baseline }}
  #scans thead th {{ border: 0; padding: .2rem .4rem }}
  #scans thead th:first-child {{ display: none }}
  .scripted #scans thead tr::before {{ content: "sort by"; color: {GRAY} }}
  #scans tbody tr {{ display: block; border-bottom: 2px solid #888; padding: .6rem 0 }}
  #scans tbody tr[hidden] {{ display: none }}
  #scans td {{ border: 0; padding: .1rem .3rem }}
  #scans td:empty {{ display: none }}
  #scans td[data-label]::before {{ content: attr(data-label) ": "; color: {GRAY} }}
  .look, .look img {{ width: min(100%, 34rem); max-height: none }}
}}
@media (max-width: 36rem) {{
  dl {{ grid-template-columns: 9.5rem 1fr }}
  svg {{ font-size: 20px }}
  .days text:nth-of-type(even) {{ display: none }}
}}
@media print {{ .controls {{ display: none !important }} }}
"""
"""Style sheet of the page."""

SCRIPT = """
"use strict";
document.documentElement.classList.add("scripted");
const find = selector => document.querySelector(selector);
const body = find("#scans tbody");
const rows = [...body.rows];
const heads = [...document.querySelectorAll("#scans th")];

function compare(first, second, column, sign) {
  const [one, two] = [first, second].map(row => row.cells[column].dataset.value);
  if (one === "" || two === "") return (one === "") - (two === "");
  const numbers = heads[column].dataset.kind === "number";
  return sign * (numbers ? one - two : one.localeCompare(two, undefined, {numeric: true}));
}

function sort(column) {
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach(head => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  rows.sort((first, second) => compare(first, second, column, up ? 1 : -1));
  body.append(...rows);
}

function filter() {
  const words = find("#words").value.toLowerCase();
  const kind = find("#kind").value;
  for (const row of rows) {
    const wanted = !kind || row.classList.contains(kind);
    row.hidden = !(wanted && row.textContent.toLowerCase().includes(words));
  }
  find("#shown").textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} shown`;
}

function look(row) {
  const dialog = find("dialog");
  const picture = row.querySelector("img");
  const words = document.createElement("p");
  words.textContent = ["name", "verdict", "oodm", "reasons"]
    .map(name => row.querySelector(`.${name}`)?.innerText).filter(Boolean).join(" \\u00b7 ");
  const parts = [words];
  if (picture) parts.unshift(picture.cloneNode());
  const chart = find("#histogram svg");
  if (chart) {
    parts.push(chart.cloneNode(true));
    parts.at(-1).querySelector(`[data-row="${row.dataset.row}"]`)?.classList.add("chosen");
  }
  find("#view").replaceChildren(...parts);
  dialog.showModal();
}

heads.forEach((head, column) => {
  const button = head.querySelector("button");
  if (!button) return;
  button.disabled = false;
  button.addEventListener("click", () => sort(column));
});
rows.forEach(row => row.querySelector(".look")?.addEventListener("click", () => look(row)));
document.querySelectorAll("section .mark").forEach(mark =>
  mark.addEventListener("click", () => look(rows.find(row => row.dataset.row === mark.dataset.row))));
find("#words").addEventListener("input", filter);
find("#kind").addEventListener("change", filter);
find("#close").addEventListener("click", () => find("dialog").close());
filter();
"""
"""Script of the page: sorting, filtering, the larger view. Without it, everything can be read as well."""
