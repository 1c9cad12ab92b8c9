"use strict";
// Panels are drawn when they come into view: a large report has hundreds of curves.
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
