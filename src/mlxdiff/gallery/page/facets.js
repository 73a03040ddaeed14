// The column of filters: for each field that tells pictures apart its values, and how many pictures have each.

const UNLISTED = [
  ...["prompt", "negative_prompt", "hires_prompt", "hires_negative_prompt"],
  ...["seed", "variation_seed", "batch_index"],
];
const FIRST = ["model", "lora", "sampler", "schedule", "steps", "guidance_scale", "program", "folder", "size"];
const MOST_VALUES = 500; // of a field that is listed
const FEW = 8; // values that are shown before "more"

class Facets {
  /** `hears` has choose(field, value). */
  constructor(root, store, hears) {
    Object.assign(this, { root, store, hears });
    this.open = new Map(); // field -> whether its values are shown
    this.long = new Set(); // fields of which all values are shown
    this.fields = [];
  }

  /** Takes the fields that differ among all pictures, out of a survey of them. */
  study(all) {
    const order = (field) => (FIRST.indexOf(field.name) + FIRST.length + 1) % (FIRST.length + 1);
    this.all = all;
    this.fields = [...all].filter(([field, counts]) => counts?.size > 1 && !UNLISTED.includes(field.name));
    this.fields = this.fields.map(([field]) => field).sort((a, b) => order(a) - order(b) || a.index - b.index);
  }

  /** Draws the column anew, with the counts that `survey(field)` has and the values of each field that are `chosen`. */
  show(survey, chosen) {
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.root.replaceChildren();
    for (const [place, field] of this.fields.entries()) {
      const counts = survey(field).get(field);
      const values = [...this.all.get(field).keys()];
      this.root.append(this.group(field, values, counts, chosen.get(field) ?? new Set(), place < 4));
    }
    if (!this.fields.length) this.root.append(element("p", "quiet", "All pictures have the same settings."));
    if (focused !== undefined) this.root.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  group(field, values, counts, chosen, open) {
    const group = element("details", "facet");
    group.open = this.open.get(field) ?? (open || chosen.size > 0);
    group.addEventListener("toggle", () => this.open.set(field, group.open));
    group.append(element("summary", "", field.title));
    const collator = new Intl.Collator(undefined, { numeric: true });
    const rank = (value) => (chosen.has(value.toLowerCase()) ? Infinity : (counts.get(value) ?? 0));
    const byCount = (a, b) => rank(b) - rank(a) || collator.compare(a, b);
    const byNumber = (a, b) => Number(a) - Number(b);
    values.sort(field.number ? byNumber : byCount);
    const all = this.long.has(field) || values.length <= FEW + 2;
    const list = element("ul");
    for (const value of all ? values : values.slice(0, FEW)) {
      list.append(this.row(field, value, counts.get(value) ?? 0, chosen.has(value.toLowerCase())));
    }
    group.append(list);
    if (!all) group.append(this.more(field, values.length));
    return group;
  }

  row(field, value, count, isChosen) {
    const row = element("li");
    const label = element("label", count || isChosen ? "" : "none");
    const box = element("input");
    box.type = "checkbox";
    box.checked = isChosen;
    box.dataset.key = `${field.name}=${value}`;
    box.addEventListener("change", () => this.hears.choose(field, value));
    const name = element("bdi", "name", value === "" ? "none" : visible(value));
    name.title = name.textContent;
    label.append(box, name, element("span", "count", count.toLocaleString("en")));
    row.append(label);
    return row;
  }

  more(field, count) {
    const button = element("button", "plain", `all ${count.toLocaleString("en")}`);
    button.type = "button";
    button.addEventListener("click", () => {
      this.long.add(field);
      this.hears.redraw();
    });
    return button;
  }
}
