"""Style and script of a report's page."""

STYLE = """
:root { --ink: #1c1c1c; --soft: #5f5f5f; --line: #d9d9d9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem 1.5rem 4rem; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
sub { line-height: 0; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.4rem 0 .3rem; }
header p { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .87rem; max-width: 75em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.results { border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
.results thead th { border-bottom: 1px solid var(--ink); vertical-align: bottom; }
.results th, .results td { padding: .28rem .7rem; text-align: right; white-space: nowrap; }
.results thead th { white-space: normal; font-weight: 600; }
.results tr > th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0; background: #fff; }
.results tbody tr:hover td, .results tbody tr:hover th { background: #f5f5f5; }
.results tbody th { white-space: normal; min-width: 9rem; max-width: 18rem; overflow-wrap: anywhere; }
.b0 { white-space: nowrap; }
.best { font-weight: 700; }
.diverged { color: #a33a00; }
small { color: var(--soft); font-weight: 400; }
.facts th { text-align: left; font-weight: 600; padding: .15rem 1.5rem .15rem 0; vertical-align: top;
  white-space: nowrap; }
.facts td { padding: .15rem 0; overflow-wrap: anywhere; }
details { margin-top: .8rem; }
summary { cursor: pointer; font-weight: 600; }
details .facts { margin-top: .5rem; font-size: .87rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); gap: .4rem 1rem; }
.panel { margin: 0; min-width: 0; }
.panel figcaption { font-size: .87rem; font-weight: 600; padding-left: 48px; overflow-wrap: anywhere; }
[hidden] { display: none; }
.controls { position: sticky; top: 0; z-index: 5; background: #fffffff2; border-bottom: 1px solid var(--line);
  padding: .3rem 0; max-height: 40vh; overflow-y: auto; }
fieldset { border: 0; margin: 0; padding: .1rem 0; display: flex; flex-wrap: wrap; gap: .1rem .9rem;
  align-items: center; }
legend { float: left; font-weight: 600; font-size: .87rem; margin-right: .9rem; min-width: 2.4rem; padding: 0; }
label { display: inline-flex; align-items: center; gap: .3rem; font-size: .87rem; white-space: nowrap; }
label i { width: 1.1rem; height: .3rem; border-radius: 2px; display: inline-block; }
button { font: inherit; font-size: .8rem; padding: 0 .5rem; border: 1px solid var(--line); border-radius: 4px;
  background: #fff; cursor: pointer; }
.gaps { columns: 22rem; font-size: .9rem; padding-left: 1.2rem; }
.warning { padding: .5rem 1rem; background: #fff4e5; }
@media print { .controls { position: static; } button { display: none; } }
"""

# Panels are drawn when they come into view: a large report has hundreds of curves.
SCRIPT = """
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const config = plot => ({
  responsive: true, displaylogo: false, displayModeBar: plot.closest(".panel") ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
});
const shown = () => new Set([...document.querySelectorAll("input[data-b0]:checked")].map(box => +box.dataset.b0));
const drawn = new Set();

function setVisible(figure, b0s) {
  for (const trace of figure.data) if (trace.meta !== undefined) trace.visible = b0s.has(trace.meta);
}

function draw(plot) {
  const figure = figures[plot.dataset.figure];
  if (innerWidth < 760 && figure.layout.legend) {  // beside the plot there is no room for it
    const room = 20 * figure.data.filter(trace => trace.showlegend !== false).length;
    Object.assign(figure.layout.legend, {orientation: "h", y: -0.25});
    figure.layout.margin.b = 80 + room;
    figure.layout.height += room;
  }
  setVisible(figure, shown());
  Plotly.react(plot, figure.data, figure.layout, config(plot));
  drawn.add(plot);
}

const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "600px"});

for (const plot of document.querySelectorAll(".plot")) {
  plot.style.minHeight = figures[plot.dataset.figure].layout.height + "px";
  watcher.observe(plot);
}

function redraw() {
  for (const box of document.querySelectorAll("input[data-row]"))
    for (const panel of document.querySelectorAll(`.panel[data-row="${box.dataset.row}"]`)) panel.hidden = !box.checked;
  for (const plot of drawn) if (plot.closest(".panel") && !plot.closest(".panel").hidden) draw(plot);
}

document.addEventListener("change", event => { if (event.target.matches("input")) redraw(); });
document.addEventListener("click", event => {
  const {all, none} = event.target.dataset;
  if (!all && !none) return;
  for (const box of document.querySelectorAll(`input[data-${all || none}]`)) box.checked = Boolean(all);
  redraw();
});
"""
