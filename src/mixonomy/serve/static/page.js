// The page: sends images to this server and draws what comes back. All text from outside goes in by textContent.
"use strict";

const $ = (id) => document.getElementById(id);
const TOP = 5, AT_ONCE = 4, MAP_SIDE = 340, NAMED = 40;
const state = { key: "", model: null, cards: [], chosen: null, seed: 1, running: {}, waiting: {} };

async function ask(path, options = {}) {
  const headers = state.key ? { authorization: `Bearer ${state.key}` } : {};
  let response;
  try { response = await fetch(path, { ...options, headers }); } catch { throw new Error("the server does not answer."); }
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) $("key-form").hidden = false;
  if (!response.ok) throw Object.assign(new Error(body.error || `status ${response.status}`), { status: response.status });
  return body;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed((share > 0.9895 && share < 0.9995) || share < 0.0995 ? 1 : 0)}\u00a0%`;
const say = (text) => { $("status").textContent = text; };
const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)}\u00a0ms`;

function showBars(list, classes) {
  while (list.children.length > classes.length) list.lastChild.remove();
  classes.forEach(({ name, prob }, i) => {
    let line = list.children[i];
    if (!line) {
      const track = element("span", { className: "track", ariaHidden: "true" }, element("i"));
      line = element("li", {}, element("span"), element("span", { className: "percent" }), track);
      list.append(line);
    }
    line.children[0].textContent = line.children[0].title = name;
    line.children[1].textContent = percent(prob);
    line.querySelector("i").style.width = `${100 * prob}%`;
  });
}

// ---- the model

async function start() {
  try {
    state.model = await ask("v1/model");
  } catch (error) {
    if (error.status === 503) setTimeout(start, 1000);
    else $("model-facts").textContent = error.message;
    return;
  }
  const { name, architecture, num_parameters, num_classes, preprocessing, num_token_mlps, version, grid, class_names } = state.model;
  const size = preprocessing.image_size, millions = num_parameters / 1e6;
  $("key-form").hidden = true;
  $("model-name").textContent = document.title = name;
  $("model-facts").textContent = [
    architecture.name,
    num_parameters ? `${millions < 10 ? millions.toFixed(2) : Math.round(millions)} million parameters` : "",
    `${num_classes.toLocaleString("en")} classes`, `${size[0]} × ${size[1]} pixels in ${grid[0]} × ${grid[1]} patches`,
  ].filter(Boolean).join(" · ");
  $("version").textContent = version;
  const named = class_names.slice(0, NAMED).join(", "), more = class_names.length - NAMED;
  $("class-names").textContent = more > 0 ? `${named} and ${more.toLocaleString("en")} more` : named;
  $("knows").hidden = !class_names.length;
  $("units-panel").hidden = !num_token_mlps;
  $("block").max = Math.max(num_token_mlps - 1, 0);
  $("converted-box").hidden = !state.model.can_be_permuted;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value.trim();
  $("key").value = "";
  start();
});

// ---- images

async function add(files) {
  const fresh = [...files].map((file) => new Card(file));
  if (!fresh.length) return;
  $("results").hidden = false;
  $("drop").classList.add("small");
  const waiting = [...fresh];
  say(`${fresh.length} ${fresh.length === 1 ? "image is" : "images are"} being classified.`);
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (let card; (card = waiting.shift());) if (state.cards.includes(card)) await card.predict();
  }));
  const left = fresh.filter((card) => state.cards.includes(card)), good = left.filter((card) => card.best);
  if (!left.length) return;  // cleared meanwhile
  say([...good.map((card) => `${card.file.name}: ${card.best}`),
    ...left.filter((card) => !card.best).map((card) => `${card.file.name}: ${card.error}`)].join(". "));
  if (good.length && !state.chosen) good[0].choose();
}

class Card {
  constructor(file) {
    this.file = file;
    this.url = URL.createObjectURL(file);
    this.thumb = element("img", { className: "thumb", src: this.url, alt: "" });
    this.thumb.onload = () => this.thumb.classList.toggle("tiny", this.thumb.naturalWidth < 64);
    this.thumb.onerror = () => this.thumb.replaceWith(element("span", { className: "thumb", ariaHidden: "true" }));
    this.bars = element("ul", { className: "bars" });
    this.time = element("span", { textContent: "…" });
    this.button = element("button", { type: "button", className: "plain", textContent: "Look closer", disabled: true });
    this.button.setAttribute("aria-pressed", "false");
    this.button.setAttribute("aria-label", `Look closer at ${file.name}`);
    this.button.onclick = () => { this.choose(); $("closer").scrollIntoView({ block: "start" }); };
    this.body = element("li", { className: "panel card" }, this.thumb,
      element("p", { className: "name", textContent: file.name, title: file.name }), this.bars,
      element("p", { className: "time" }, this.time, this.button));
    state.cards.push(this);
    $("cards").append(this.body);
  }

  form() {
    const form = new FormData();
    form.append("image", this.file, this.file.name);
    return { method: "POST", body: form };
  }

  async predict() {
    const begun = performance.now();
    try {
      if (this.file.type && !this.file.type.startsWith("image/")) throw new Error("this is not an image.");
      const answer = await ask(`v1/predict?top=${TOP}`, this.form());
      const { classes, predicted, timing_ms: timing } = answer.predictions[0];
      showBars(this.bars, classes);
      this.best = (predicted.length ? predicted : classes.slice(0, 1)).map((c) => `${c.name} ${percent(c.prob)}`).join(", ");
      this.time.textContent = `${ms(performance.now() - begun)} · model ${ms(timing.model)}`;
      this.button.disabled = false;
    } catch (error) {
      this.error = error.message;
      this.bars.replaceWith(element("p", { className: "problem", role: "alert", textContent: error.message }));
      this.time.textContent = "";
      this.button.remove();
    }
  }

  choose() {
    for (const card of state.cards) {
      card.body.classList.toggle("chosen", card === this);
      card.button.setAttribute("aria-pressed", String(card === this));
    }
    state.chosen = this;
    $("closer").hidden = false;
    $("closer-title").textContent = `A closer look at ${this.file.name}`;
    lookCloser();
  }
}

$("clear").onclick = () => {
  for (const card of state.cards) URL.revokeObjectURL(card.url);
  state.cards = [];
  state.chosen = null;
  $("cards").replaceChildren();
  $("results").hidden = $("closer").hidden = true;
  $("drop").classList.remove("small");
  $("files").focus();
  say("Cleared.");
};
$("files").onchange = (event) => { add(event.target.files); event.target.value = ""; };
addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", (event) => { event.preventDefault(); $("drop").classList.remove("over"); add(event.dataTransfer.files); });

// ---- a closer look: one request of each kind at a time; of those asked for meanwhile only the last is sent

async function latest(what, box, job, show, complain) {
  if (state.running[what]) { state.waiting[what] = [box, job, show, complain]; return; }
  state.running[what] = true;
  const card = state.chosen;
  box.classList.add("busy");
  box.setAttribute("aria-busy", "true");
  let result, problem;
  for (let tries = 0; ; tries++) {
    try { result = await job(card); problem = null; } catch (error) { problem = error; }
    const isBusy = problem && (problem.status === 429 || problem.status === 503);
    if (!isBusy || tries === 5 || state.waiting[what]) break;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  state.running[what] = false;
  if (state.waiting[what]) {
    const next = state.waiting[what];
    state.waiting[what] = null;
    await latest(what, ...next);
    return;
  }
  box.classList.remove("busy");
  box.setAttribute("aria-busy", "false");
  if (state.chosen === card) problem ? complain(problem.message) : await show(result);
}

async function lookCloser() {
  $("occlusion-note").textContent = "…";
  await Promise.all([explainRegion(), shuffle(), showUnits()]);
}

async function pictureOf(uri) {
  const picture = new Image();
  picture.src = uri;
  await picture.decode();
  return picture;
}

function drawPicture(canvas, picture) {
  const scale = Math.max(Math.round(2 * MAP_SIDE / picture.width), 1);
  canvas.width = picture.width * scale;
  canvas.height = picture.height * scale;
  canvas.classList.toggle("tiny", picture.width < 64);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = picture.width >= 64;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return context;
}

const color = (name) => {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
};

function grid(values, rows, columns, paint) {
  const small = element("canvas", { width: columns, height: rows }), context = small.getContext("2d");
  const image = context.createImageData(columns, rows);
  values.forEach((value, i) => image.data.set(paint(value), 4 * i));
  context.putImageData(image, 0, 0);
  return small;
}

const WHERE = [["upper left", "upper middle", "upper right"], ["left", "middle", "right"], ["lower left", "lower middle", "lower right"]];

async function drawOcclusion() {
  const { seen, drops, rows, columns } = state.occlusion;
  const context = drawPicture($("occlusion"), await pictureOf(seen));
  if (!$("show-map").checked) return;
  const most = Math.max(...drops.map(Math.abs), 1e-6), warm = color("--warm"), cold = color("--cold");
  const map = grid(drops, rows, columns, (drop) => [...(drop > 0 ? warm : cold), 205 * Math.abs(drop) / most]);
  context.imageSmoothingEnabled = true;
  context.drawImage(map, 0, 0, $("occlusion").width, $("occlusion").height);
}

function explainRegion() {
  return latest("occlusion", $("occlusion").parentNode, (card) => ask("v1/occlusion", card.form()), async (found) => {
    state.occlusion = found;
    const { drops, rows, columns, class_name: name, prob } = found, most = Math.max(...drops), at = drops.indexOf(most);
    const place = WHERE[Math.floor(3 * Math.floor(at / columns) / rows)][Math.floor(3 * (at % columns) / columns)];
    const text = most < 0.005 ? `“${name}” (${percent(prob)}) depends on no single place.`
      : `“${name}” (${percent(prob)}) depends most on the ${place}: greyed there, it falls to ${percent(Math.max(prob - most, 0))}.`;
    $("occlusion-note").textContent = text;
    $("occlusion").setAttribute("aria-label", `Map of the image. ${text}`);
    await drawOcclusion();
  }, (message) => { $("occlusion-note").textContent = message; });
}
$("show-map").onchange = () => { if (state.occlusion) drawOcclusion(); };

function shuffle() {
  const kind = document.querySelector("input[name=shuffle]:checked").value, share = $("share").value / 100;
  const of = (name) => (kind === name || kind === "both" ? share : 0);
  $("share").disabled = $("again").disabled = kind === "none";
  $("share-text").textContent = kind === "none" ? "–" : `${$("share").value} %`;
  const query = `patches=${of("patches")}&pixels=${of("pixels")}&seed=${state.seed}`;
  return latest("shuffle", $("shuffled").parentNode, (card) => ask(`v1/shuffle?${query}`, card.form()), async (found) => {
    drawPicture($("shuffled"), await pictureOf(found.seen));
    $("shuffled").setAttribute("aria-label", kind === "none" ? "The image as the model sees it" : `The image, shuffled: ${kind}`);
    showBars($("original"), found.original);
    if (found.converted) showBars($("converted"), found.converted);
    $("shuffle-note").textContent = verdict(kind, found);
  }, (message) => { $("shuffle-note").textContent = message; });
}

function verdict(kind, { original, converted }) {
  if (kind === "none") return "";
  if (!converted && !state.model.num_parameters) return "The weights of an exported file cannot be put in another order: serve the run itself to see that a Mixer does not mind.";
  if (!converted) return "This model knows which places are neighbours: no order of its weights undoes a shuffle.";
  const [mine, theirs] = [converted[0], original[0]];
  if (mine.name !== theirs.name) return `As it is, the model now says “${theirs.name}”; in the same order as the image, still “${mine.name}”, as for the plain image.`;
  return `Both say “${mine.name}”: ${percent(theirs.prob)} as it is; in the same order as the image ${percent(mine.prob)}, as for the plain one.`;
}
for (const radio of document.querySelectorAll("input[name=shuffle]")) radio.onchange = shuffle;
$("share").oninput = shuffle;
$("again").onclick = () => { state.seed = (state.seed % 9999) + 1; shuffle(); };

function showUnits() {
  if (!state.model.num_token_mlps) return null;
  $("block-text").textContent = `${+$("block").value + 1} of ${state.model.num_token_mlps}`;
  return latest("units", $("units"), (card) => ask(`v1/token-units?block=${$("block").value}`, card.form()), (found) => {
    const warm = color("--warm"), cold = color("--cold"), ink = color("--ink");
    const signed = (value) => [...(value > 0 ? warm : cold), 255 * Math.abs(value)];
    const taken = (value) => [...ink, 215 * value];
    $("units").replaceChildren(...found.units.map((unit) => {
      const bar = element("i");
      bar.style.width = `${100 * unit.strength}%`;
      const title = element("div", { className: "title" }, element("span", { textContent: `unit ${unit.index + 1}` }),
        element("span", { className: "track", ariaHidden: "true" }, bar), element("span", { textContent: percent(unit.strength) }));
      const maps = [["looks", unit.reads, signed], ["took", unit.takes, taken], ["writes", unit.writes, signed]].map(([name, values, paint]) => {
        const map = grid(values.flat(), found.rows, found.columns, paint);
        map.setAttribute("role", "img");
        map.setAttribute("aria-label", `Where unit ${unit.index + 1} ${name}: most at ${strongest(values)}`);
        return element("figure", {}, map, element("figcaption", { textContent: name }));
      });
      return element("li", {}, title, element("div", { className: "maps" }, ...maps));
    }));
  }, (message) => { $("units").replaceChildren(element("li", { className: "problem", textContent: message })); });
}

function strongest(values) {
  let best = [0, 0];
  values.forEach((row, i) => row.forEach((value, j) => { if (Math.abs(value) > Math.abs(values[best[0]][best[1]])) best = [i, j]; }));
  return `row ${best[0] + 1}, column ${best[1] + 1}`;
}
$("block").oninput = showUnits;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (state.chosen) { drawOcclusion(); showUnits(); } });

start();
