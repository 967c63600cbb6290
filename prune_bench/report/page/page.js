// Draws the charts and applies the filters. The page's tables are HTML already and need none of this.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const column = (c) => (Array.isArray(c) ? c : c.codes.map((code) => (code < 0 ? null : c.levels[code])));
const tables = Object.fromEntries(Object.entries(read("data")).map(([name, columns]) => {
  const names = Object.keys(columns);
  const values = names.map((key) => column(columns[key]));
  const count = values.length ? values[0].length : 0;
  return [name, Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((key, k) => [key, values[k][i]])))];
}));
const charts = read("specs");
const form = document.getElementById("filters");
const drawn = new Map();

const theme = {
  background: null, font: "system-ui, sans-serif", view: { stroke: "var(--faint)" },
  axis: { labelColor: "var(--ink)", titleColor: "var(--ink)", gridColor: "var(--faint)", gridOpacity: 0.5,
          domainColor: "var(--soft)", tickColor: "var(--soft)", titleFontWeight: "normal", labelLimit: 150 },
  legend: { labelColor: "var(--ink)", titleColor: "var(--ink)", labelLimit: 150 },
};

const themeFor = (plot) => ({ ...theme, legend: { ...theme.legend, columns: Math.max(2, Math.floor(plot.clientWidth / 150)) } });

const checked = (name) => new Set([...form.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value));

function chosen() {
  const setting = document.getElementById("setting");
  return {
    setting: setting ? setting.value : null,
    density: Number(document.getElementById("density").value),
    methods: checked("method"), densities: new Set([...checked("density")].map(Number)), variants: checked("variant"),
  };
}

function isShown(row, choice, atDensity) {
  if (choice.setting !== null && "setting" in row && row.setting !== choice.setting) return false;
  if ("method" in row && !choice.methods.has(row.method)) return false;
  if ("against" in row && !choice.methods.has(row.against)) return false;
  if ("variant" in row && row.variant !== "original" && !choice.variants.has(row.variant)) return false;
  if (!("density" in row)) return true;
  return atDensity ? row.density === choice.density : choice.densities.has(row.density);
}

function rowsOf(chart, choice) {
  return Object.fromEntries(chart.tables.map((name) =>
    [name, (tables[name] || []).filter((row) => isShown(row, choice, chart.at_density))]));
}

const ERRORS = 1; // Vega warns of each layer that has nothing to draw, such as intervals of a single seed
const AROUND = 120; // pixels that axes and legends take above and below the lanes

function lanes(spec, rows) {
  const encoding = spec.encoding?.y ? spec.encoding : spec.layer.find((layer) => layer.encoding.y)?.encoding;
  const count = (field) => new Set(rows.map((row) => row[field])).size;
  return count(encoding.y.field) * (encoding.yOffset ? count(encoding.yOffset.field) : 1);
}

async function draw(chart, choice) {
  const home = document.getElementById(chart.name);
  const rows = rowsOf(chart, choice);
  const plain = chart.spec.transform || [];
  const needed = plain.map((step) => /isValid\(datum\.(\w+)\)/.exec(step.filter || "")).find(Boolean);
  const main = rows[chart.tables[0]].filter((row) => !needed || row[needed[1]] !== null);
  home.hidden = main.length === 0;
  home.querySelector(".at").textContent = chart.at_density ? `, density ${choice.density}` : "";
  if (drawn.has(chart.name)) drawn.get(chart.name).finalize();
  drawn.delete(chart.name);
  if (home.querySelector("details.data").open) fillTable(home, main);
  if (home.hidden) return;
  const plot = home.querySelector(".plot");
  const spec = { ...chart.spec, datasets: rows, width: "container" };
  spec.autosize = { type: "fit", contains: "padding" };
  if (typeof spec.height !== "number") spec.height = AROUND + spec.height.step * lanes(spec, main);
  // Marks of a table without rows would be a picture without a name to screen readers.
  if (spec.layer) spec.layer = spec.layer.filter((layer) => !(rows[layer.data?.name]?.length === 0));
  const made = await window.vegaEmbed(plot, spec, { renderer: "svg", actions: false, config: themeFor(plot), logLevel: ERRORS });
  drawn.set(chart.name, made);
}

function fillTable(home, rows) {
  const place = home.querySelector("details.data .scroll");
  const table = document.createElement("table");
  const names = rows.length ? Object.keys(rows[0]) : [];
  const line = (parent, cells, tag) => {
    const tr = parent.insertRow();
    for (const cell of cells) tr.appendChild(document.createElement(tag)).textContent = cell === null ? "–" : cell;
  };
  line(table.createTHead(), names, "th");
  const body = table.createTBody();
  for (const row of rows) line(body, names.map((name) => row[name]), "td");
  place.replaceChildren(table);
}

function filterTables(choice) {
  for (const row of document.querySelectorAll("[data-setting], [data-method], [data-density]")) {
    const { setting, method, density } = row.dataset;
    const known = method !== undefined && form.querySelector(`input[name=method][value="${CSS.escape(method)}"]`);
    row.hidden = (choice.setting !== null && setting !== undefined && setting !== choice.setting)
      || Boolean(known && !choice.methods.has(method))
      || (density !== undefined && Number(density) < 1 && !choice.densities.has(Number(density)));
  }
  for (const cell of document.querySelectorAll("[data-variant]")) cell.hidden = !choice.variants.has(cell.dataset.variant);
  const count = document.querySelectorAll("#summary tbody tr:not([hidden])").length;
  document.getElementById("shown").textContent = `${count} rows of the summary are shown.`;
}

let latest = 0;
async function show() {
  const mine = ++latest;
  const choice = chosen();
  filterTables(choice);
  for (const chart of charts) {
    if (mine !== latest) return; // another choice was made meanwhile
    await draw(chart, choice);
  }
  document.documentElement.dataset.drawn = String(mine);
}

const opening = document.getElementById("density");
const asked = [...opening.options].sort((a, b) => Math.abs(Math.log(a.value / 0.01)) - Math.abs(Math.log(b.value / 0.01)))[0];
if (asked) { asked.selected = true; asked.defaultSelected = true; }
form.addEventListener("change", show);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(show));
for (const details of document.querySelectorAll("details.data")) {
  details.addEventListener("toggle", () => {
    const chart = charts.find((one) => one.name === details.closest("section").id);
    if (details.open) fillTable(details.closest("section"), rowsOf(chart, chosen())[chart.tables[0]]);
  });
}

await show();
document.documentElement.dataset.seconds = String((performance.now() / 1000).toFixed(2));
