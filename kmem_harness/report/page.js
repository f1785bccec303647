"use strict";
// Draws each figure of #figures in the page's own colours, when it comes into sight.
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();

function placeOf(figure) {
  return document.getElementById("plot-" + figure.name);
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function axis(given) {
  return {
    gridcolor: ink("line"), linecolor: ink("line"), zerolinecolor: ink("line"),
    tickcolor: ink("line"), automargin: true, ...given,
  };
}

function layoutOf(figure) {
  const { xaxis, yaxis, yaxis2, ...rest } = figure.layout;
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { color: ink("text"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    margin: { l: 8, r: 12, t: 12, b: 8 },
    hoverlabel: { bgcolor: ink("ground"), bordercolor: ink("line"), font: { color: ink("text") }, align: "left" },
    xaxis: axis(xaxis), yaxis: axis(yaxis), ...rest,
  };
  if (yaxis2) {
    layout.yaxis2 = axis(yaxis2);
  }
  return layout;
}

function inked(trace) {
  const name = trace.meta && trace.meta.ink;
  if (!name) {
    return trace;
  }
  const colour = { color: ink(name) };
  const copy = { ...trace };
  copy.line = { ...trace.line, ...colour };
  copy.marker = { ...trace.marker, ...colour };
  return copy;
}

function draw(figure) {
  const place = placeOf(figure);
  const before = drawn.has(figure.name) ? place.data.map((trace) => trace.visible) : [];
  const traces = figure.traces.map((trace, index) => ({ ...inked(trace), visible: before[index] ?? true }));
  drawn.set(figure.name, figure);
  return Plotly.react(place, traces, layoutOf(figure), { responsive: true, displayModeBar: false });
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      seen.unobserve(entry.target);
      draw(figures.find((figure) => placeOf(figure) === entry.target));
    }
  }
}, { rootMargin: "400px" });
for (const figure of figures) {
  seen.observe(placeOf(figure));
}
dark.addEventListener("change", () => drawn.forEach(draw));
window.addEventListener("beforeprint", () => figures.forEach(draw));
for (const legend of document.querySelectorAll(".legend")) {
  legend.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const place = document.getElementById("plot-" + legend.dataset.for);
    if (!button || !place.data) {
      return;
    }
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    Plotly.restyle(place, { visible: shown }, [Number(button.dataset.index)]);
  });
}
