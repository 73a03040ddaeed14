// The page: reads the blocks of pictures as they arrive, and ties search, filters, grid and details together.

const READING = 150; // milliseconds between two looks at what has arrived
const SELECTED = "is:selected";
const byId = (id) => document.getElementById(id);
const about = JSON.parse(byId("about").textContent);
const store = new Store(about.fields);
let items = store.pictures; // those that are shown, in their order
let terms = [];
let complete = false;

const tiles = new Tiles(byId("scroller"), byId("tiles"), about.thumbnail, {
  described: (picture) => visible(store.prompt(picture) || picture.file).slice(0, 300),
  opened: (position) => details.open(items, position),
  toggled: toggle,
  extended(from, to) {
    for (let i = Math.min(from, to); i <= Math.max(from, to); i++) items[i].selected = true;
    selectionChanged();
  },
});
const facets = new Facets(byId("facets"), store, { choose: choose, redraw: drawFacets });
const details = new Details(byId("details"), store, {
  filtered(field, value) {
    byId("query").value = equalTerm(field, [value]);
    search();
  },
  toggled: toggle,
  copied: copy,
  shown: remember,
  closed(position) {
    remember();
    byId("tiles").focus();
    if (items.length) tiles.focus(Math.min(position, items.length - 1));
  },
});

const compare = new Compare(byId("compare"), byId("figures"), store, {
  deselected(picture) {
    picture.selected = false;
    selectionChanged();
  },
  closed: () => byId("tiles").focus(),
});

// ---- What is shown

function search(stay = false) {
  const query = byId("query").value;
  const only = query.includes(SELECTED);
  const parsed = parseQuery(query.replaceAll(SELECTED, ""), store);
  terms = parsed.terms;
  const fits = matcher(terms, store);
  const found = terms.length || only ? store.pictures.filter((each) => fits(each) && (!only || each.selected)) : null;
  const field = store.names.get(byId("sort").value);
  items = store.sorted(found ?? store.pictures, field, byId("direction").getAttribute("aria-pressed") === "true");
  tiles.show(items, stay);
  byId("unknown").textContent = parsed.unknown.length
    ? `${parsed.unknown.join(", ")} is no setting: searched for as text.`
    : "";
  byId("empty").hidden = items.length > 0 || !complete;
  byId("clear").hidden = query === "";
  say();
  drawFacets();
  remember();
}

function drawFacets() {
  if (byId("facets").hidden || !complete) return;
  const chosen = new Map();
  for (const { field, op, values, negative } of terms) {
    if (op === "=" && !negative) chosen.set(field, new Set(values.map((value) => value.toLowerCase())));
  }
  const shown = store.survey(items);
  facets.show((field) => (chosen.has(field) ? store.survey(without(field)) : shown), chosen);
}

/** The pictures that fit all but what is asked of a field to equal. */
function without(field) {
  return store.pictures.filter(matcher(terms.filter((term) => term.field !== field || term.op !== "="), store));
}

function choose(field, value) {
  byId("query").value = toggled(byId("query").value, store, field, value);
  search();
}

function say() {
  const count = (number) => number.toLocaleString("en");
  const all = store.pictures.length;
  const shown = items.length === all ? `${count(all)} pictures` : `${count(items.length)} of ${count(all)} pictures`;
  byId("status").textContent = complete ? shown : `${shown}, reading ...`;
}

function remember() {
  if (!complete) return; // until then the address says what is asked for
  const state = new URLSearchParams();
  const query = byId("query").value.replaceAll(SELECTED, "").trim(); // no page remembers what is selected
  if (query) state.set("query", query);
  if (byId("sort").value) state.set("sort", byId("sort").value);
  if (byId("direction").getAttribute("aria-pressed") === "true") state.set("last", "first");
  if (byId("details").open) state.set("picture", details.picture.address);
  try {
    history.replaceState(null, "", state.size ? `#${state}` : location.href.replace(/#.*/s, ""));
  } catch {
    // Browsers allow so many changes a minute, and some none from a disk.
  }
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  byId("query").value = state.get("query") ?? "";
  byId("sort").value = state.get("sort") ?? "";
  byId("direction").setAttribute("aria-pressed", state.has("last"));
}

/** Opens the picture that the address names. */
function reopen(hash) {
  const wanted = new URLSearchParams(hash.slice(1)).get("picture");
  const position = wanted === null ? -1 : items.findIndex(({ address }) => address === wanted);
  if (position >= 0) details.open(items, position);
}

// ---- Selection and copying

function toggle(position) {
  items[position].selected = !items[position].selected;
  selectionChanged();
}

function selectionChanged() {
  const count = selection().length;
  byId("selection").hidden = count === 0;
  byId("selected").textContent = `${count.toLocaleString("en")} selected`;
  byId("tiles").classList.toggle("selecting", count > 0);
  byId("together").disabled = count < 2;
  tiles.marks();
}

function selection() {
  return store.pictures.filter((picture) => picture.selected);
}

function select(test) {
  for (const picture of store.pictures) picture.selected = test(picture);
  selectionChanged();
}

const COPIES = {
  files: (pictures) => pictures.map((picture) => store.shellPath(picture, location)).join(" "),
  command: (pictures) => lines(pictures, (picture) => store.command(picture, location)),
  from: (pictures) => lines(pictures, (picture) => store.from(picture, location)),
  prompt: (pictures) => lines(pictures, (picture) => store.prompt(picture)),
};

function lines(pictures, each) {
  return pictures.map(each).filter((line) => line !== "").join("\n");
}

async function copy(kind, pictures) {
  const text = COPIES[kind](pictures);
  if (text === "") return announce("There is nothing to copy: the picture does not say how it was made.");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copiedByHand(text)) return announce("This browser does not let the page copy.");
  }
  announce(pictures.length === 1 ? "Copied." : `Copied for ${pictures.length.toLocaleString("en")} pictures.`);
}

/** For browsers that have no clipboard for pages from a disk. */
function copiedByHand(text) {
  const area = element("textarea", "away");
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

function announce(text) {
  const toast = byId("toast");
  (document.querySelector("dialog[open]") ?? document.body).append(toast);
  toast.textContent = text;
  toast.classList.add("seen");
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => toast.classList.remove("seen"), 2500);
}

// ---- Controls

function offerSorts(survey) {
  const select = byId("sort");
  const before = select.value || new URLSearchParams(location.hash.slice(1)).get("sort") || "";
  const differs = (field) => !survey.has(field) || survey.get(field)?.size !== 1;
  const differing = store.fields.filter((field) => field.name !== "size" && differs(field));
  const option = (value, text) => Object.assign(element("option", "", text), { value });
  select.replaceChildren(option("", "as in the folder"), ...differing.map(({ name, title }) => option(name, title)));
  select.value = differing.some(({ name }) => name === before) ? before : "";
}

function setTheme(theme) {
  const root = document.documentElement;
  if (theme === "") delete root.dataset.theme;
  else root.dataset.theme = theme;
  byId("theme").value = theme;
  try {
    localStorage.setItem("mlxdiff-theme", theme);
  } catch {
    // A browser that keeps nothing for pages from a disk.
  }
}

function storedTheme() {
  try {
    return localStorage.getItem("mlxdiff-theme") ?? "";
  } catch {
    return "";
  }
}

function showFacets(shown) {
  byId("facets").hidden = !shown;
  byId("filters").setAttribute("aria-expanded", shown);
  drawFacets();
}

let pause;
byId("query").addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(search, 60);
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
  byId("tiles").focus();
});
byId("clear").addEventListener("click", () => {
  byId("query").value = "";
  search();
  byId("query").focus();
});
byId("sort").addEventListener("change", () => search());
byId("direction").addEventListener("click", (event) => {
  const button = event.currentTarget;
  button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
  search();
});
byId("side").addEventListener("input", (event) => tiles.resize(Number(event.target.value)));
byId("theme").addEventListener("change", (event) => setTheme(event.target.value));
byId("filters").addEventListener("click", () => showFacets(byId("facets").hidden));
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("keys-close").addEventListener("click", () => byId("keys").close());
byId("deselect").addEventListener("click", () => select(() => false));
byId("invert").addEventListener("click", () => {
  const shown = new Set(items);
  select((picture) => (shown.has(picture) ? !picture.selected : picture.selected));
});
byId("together").addEventListener("click", () => {
  const pictures = selection();
  compare.open(pictures);
  if (pictures.length > MOST_COMPARED) announce(`The first ${MOST_COMPARED} of ${pictures.length.toLocaleString("en")}.`);
});
byId("compare-close").addEventListener("click", () => byId("compare").close());
byId("only").addEventListener("click", () => {
  byId("query").value = SELECTED;
  search();
});
for (const button of byId("selection").querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button.dataset.copy, selection()));
}
addEventListener("hashchange", () => {
  const wanted = location.hash;
  recall();
  search();
  reopen(wanted);
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.target.matches("input[type=search]")) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "a") {
    const shown = new Set(items);
    select((picture) => picture.selected || shown.has(picture));
  } else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === "/") byId("query").focus();
  else if (event.key === "?") byId("keys").showModal();
  else if (event.key === "Escape") select(() => false);
  else if ("+-".includes(event.key)) byId("side").value = tiles.wanted + (event.key === "+" ? 32 : -32);
  else return;
  if ("+-".includes(event.key)) tiles.resize(Number(byId("side").value));
  event.preventDefault();
});

// ---- Reading

/** Takes the blocks whose text is there to the end: those that something follows, and all at the end of the file. */
function read() {
  let n = 0;
  for (const block of document.querySelectorAll("script.block")) {
    if (block.nextElementSibling === null && document.readyState === "loading") break;
    store.add(JSON.parse(block.textContent));
    block.remove();
    n += 1;
  }
  if (n === 0) return;
  if (items === store.pictures) {
    tiles.grown();
    say();
  } else search(true);
}

function finish() {
  read();
  arrivals.disconnect();
  const asked = location.hash;
  complete = true;
  const end = byId("end");
  if (end === null) {
    const shown = `${store.pictures.length.toLocaleString("en")} of ${about.pictures.toLocaleString("en")}`;
    byId("broken").textContent = `This file is cut off: it has ${shown} pictures. Make it again.`;
  } else tellBroken(JSON.parse(end.textContent).broken);
  const survey = store.survey(store.pictures, MOST_VALUES);
  facets.study(survey);
  offerSorts(survey);
  search(true);
  reopen(asked);
}

function tellBroken(broken) {
  if (!broken.length) return;
  const group = element("details");
  group.append(element("summary", "", `${broken.length.toLocaleString("en")} not shown`));
  const list = element("ul");
  for (const [, why] of broken) list.append(element("li", "", visible(why)));
  group.append(list);
  byId("broken").append(group);
}

setTheme(storedTheme());
recall();
const wide = matchMedia("(min-width: 50rem)").matches;
if (!wide) byId("side").value = 96;
tiles.wanted = Number(byId("side").value);
showFacets(wide);
tiles.show(items, true);
if (byId("query").value) search();
let waits;
const arrivals = new MutationObserver(() => {
  if (!store.pictures.length) read(); // the first screen at once, and then now and then: to draw takes longer than to read
  else waits ??= setTimeout(() => ((waits = undefined), read()), READING);
});
arrivals.observe(document.body, { childList: true });
document.addEventListener("DOMContentLoaded", finish);
