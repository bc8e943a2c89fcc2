"use strict";

const colours = JSON.parse(document.getElementById("colours").textContent);
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
const coarse = window.matchMedia("(pointer: coarse)");
const themeButton = document.getElementById("theme");
const STORED = "sparsewright-theme";
const PAPER_WIDTH = 680;
let printing = false;

function storedTheme() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null; // A browser may keep files from storing anything.
  }
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return !printing && (chosen ? chosen === "dark" : prefersDark.matches);
}

function inTheme(value) {
  if (typeof value === "string") return (isDark() && colours.swaps[value]) || value;
  if (Array.isArray(value)) return value.map(inTheme);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, inTheme(child)]));
  }
  return value;
}

function template() {
  const theme = colours.themes[isDark() ? "dark" : "light"];
  const axis = {
    gridcolor: theme.line, linecolor: theme.muted, zerolinecolor: theme.line, tickcolor: theme.line,
    spikecolor: theme.muted, spikethickness: 1,
    automargin: true, title: { standoff: 8, font: { size: 13 } },
  };
  const scale = theme.sequential.map((colour, index) => [index / (theme.sequential.length - 1), colour]);
  const colorbar = { outlinewidth: 0, thickness: 12, tickcolor: theme.line, title: { font: { size: 13 } } };
  return {
    layout: {
      colorway: theme.series,
      colorscale: { sequential: scale },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: theme.text },
      paper_bgcolor: theme.background,
      plot_bgcolor: theme.background,
      margin: { l: 8, r: 8, t: 16, b: 8 },
      xaxis: axis,
      yaxis: axis,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
      hoverlabel: { bgcolor: theme.surface, bordercolor: theme.muted, font: { color: theme.text }, align: "left", namelength: -1 },
      coloraxis: { colorbar },
      shapedefaults: { line: { color: theme.muted } },
    },
    data: { heatmap: [{ colorbar }] },
  };
}

function draw(element) {
  const { data, layout } = inTheme(JSON.parse(element.dataset.figure));
  layout.template = template();
  // A width in the layout is the widest that the element around the plot gets. Paper is not measured before it is
  // printed on; so many pixels fit on A4 and on letter.
  layout.width = printing ? Math.min(layout.width || PAPER_WIDTH, PAPER_WIDTH) : undefined;
  layout.autosize = !printing;
  if (coarse.matches) layout.dragmode = false; // Else a finger on the plot could not scroll the page.
  return Plotly.react(element, data, layout, { displayModeBar: false, responsive: true });
}

function shownPlots() {
  return [...document.querySelectorAll(".plot")].filter((element) => !element.closest("[hidden]"));
}

async function drawShown() {
  for (const element of shownPlots()) await draw(element);
}

async function plotlyText() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function tellTrouble(sentence) {
  const trouble = document.getElementById("trouble");
  trouble.textContent = sentence;
  trouble.hidden = false;
  document.querySelectorAll(".plot").forEach((plot) => { plot.style.display = "none"; });
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
}

async function drawPlots() {
  if (!document.getElementById("plotly")) return;
  if (typeof DecompressionStream === "undefined") {
    tellTrouble("This browser is too old to unpack the plots (it lacks DecompressionStream). The tables hold their numbers.");
    return;
  }
  const script = document.createElement("script");
  script.textContent = await plotlyText();
  document.head.append(script);
  await drawShown();
  document.documentElement.dataset.plots = "drawn";
}

function showPlots() {
  drawPlots().catch((error) => tellTrouble(`The plots could not be drawn (${error.message}). The tables hold their numbers.`));
}

function showTheme() {
  themeButton.textContent = isDark() ? "Light theme" : "Dark theme";
  if (typeof Plotly !== "undefined") drawShown();
}

const stored = storedTheme();
if (stored === "dark" || stored === "light") document.documentElement.dataset.theme = stored;

themeButton.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(STORED, theme);
  } catch {
    // It is then forgotten with the page.
  }
  showTheme();
});
prefersDark.addEventListener("change", showTheme);

for (const plot of document.querySelectorAll(".plot")) {
  plot.dataset.figure = plot.querySelector("script").textContent;
  plot.textContent = "";
}
for (const details of document.querySelectorAll("details")) details.open = false;
for (const select of document.querySelectorAll("select")) {
  select.addEventListener("change", () => {
    for (const option of select.options) document.getElementById(option.value).hidden = !option.selected;
    if (typeof Plotly !== "undefined") draw(document.querySelector(`#${select.value} .plot`));
  });
}
window.addEventListener("beforeprint", () => {
  printing = true;
  if (typeof Plotly !== "undefined") shownPlots().forEach(draw); // Nothing that waits would be done in time.
});
window.addEventListener("afterprint", () => { printing = false; showTheme(); });
showTheme();
