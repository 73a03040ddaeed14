// One picture by itself: whole, with all that it says, and the ones before and after it a key away.

class Details {
  /** `hears` has filtered(field, value), toggled(position), copied(kind, pictures), shown() and closed(position). */
  constructor(dialog, store, hears) {
    Object.assign(this, { dialog, store, hears });
    this.pictures = [];
    this.position = 0;
    this.find = (id) => dialog.querySelector(`#${id}`);
    this.stage = this.find("stage");
    this.image = this.find("whole");
    this.find("previous").addEventListener("click", () => this.go(this.position - 1));
    this.find("next").addEventListener("click", () => this.go(this.position + 1));
    this.find("close").addEventListener("click", () => dialog.close());
    this.find("pick").addEventListener("click", () => this.pick());
    this.find("zoom").addEventListener("click", () => this.zoom());
    this.image.addEventListener("click", () => this.zoom());
    this.image.addEventListener("error", () => this.missing());
    dialog.addEventListener("close", () => hears.closed(this.position));
    this.stage.addEventListener("touchstart", (event) => (this.touched = [...event.touches]), { passive: true });
    this.stage.addEventListener("touchend", (event) => this.swiped(event.changedTouches[0]), { passive: true });
    dialog.addEventListener("keydown", (event) => this.key(event));
    for (const button of dialog.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => hears.copied(button.dataset.copy, [this.picture]));
    }
  }

  open(pictures, position) {
    this.pictures = pictures;
    if (!this.dialog.open) this.dialog.showModal();
    this.go(position);
    this.find("next").focus();
  }

  get picture() {
    return this.pictures[this.position];
  }

  go(position) {
    if (position < 0 || position >= this.pictures.length) return;
    this.position = position;
    const picture = this.pictures[position];
    this.stage.classList.remove("large");
    this.find("gone").hidden = true;
    this.present(picture);
    this.find("place").textContent =
      `${(position + 1).toLocaleString("en")} of ${this.pictures.length.toLocaleString("en")}`;
    this.find("previous").disabled = position === 0;
    this.find("next").disabled = position === this.pictures.length - 1;
    const name = this.find("file");
    name.textContent = visible(picture.file);
    name.href = picture.address;
    this.tell(picture);
    this.picked();
    this.hears.shown();
    this.ahead = [position + 1, position - 1].map((each) => this.pictures[each]).filter(Boolean).map(fetched);
  }

  /** The thumbnail until the picture itself is there. */
  present(picture) {
    const { image } = this;
    image.width = picture.width;
    image.height = picture.height;
    image.alt = this.store.prompt(picture) || visible(picture.file);
    image.style.backgroundImage = `url("data:image/webp;base64,${picture.thumbnail}")`;
    image.src = picture.address;
  }

  missing() {
    const { picture } = this;
    const gone = this.find("gone");
    gone.textContent = `The picture is not at ${visible(pathText(picture.address))}, or this browser cannot show it.`;
    gone.hidden = false;
    this.image.src = `data:image/webp;base64,${picture.thumbnail}`;
  }

  tell(picture) {
    const prompt = this.store.prompt(picture);
    const shown = this.find("prompt");
    shown.hidden = prompt === "";
    shown.textContent = visible(prompt);
    const list = this.find("settings");
    list.replaceChildren();
    for (const [field, text] of this.store.settings(picture)) {
      if (field.name !== "prompt") this.row(list, field, text);
    }
    for (const name of ["program", "size", "date", "folder"]) {
      const field = this.store.names.get(name);
      for (const text of this.store.values(picture, field)) this.row(list, field, text);
    }
    const size = element("dd", "", bytesText(picture.bytes));
    list.append(element("dt", "", "file size"), size);
    const notes = this.find("notes");
    notes.replaceChildren(...picture.notes.map((place) => element("li", "", visible(this.store.strings[place]))));
    notes.hidden = picture.notes.length === 0;
    const written = this.store.strings[picture.written];
    this.find("written").hidden = written === "";
    this.find("text").textContent = visible(written);
    for (const button of this.dialog.querySelectorAll("[data-copy]")) {
      const needs = { command: this.store.command(picture, location), from: this.store.from(picture, location), prompt };
      button.hidden = needs[button.dataset.copy] === "";
    }
  }

  row(list, field, text) {
    const value = element("dd");
    const long = text.length > 60 || field.name.endsWith("prompt");
    const shown = long ? element("bdi", "text", visible(text)) : element("button", "plain", visible(text));
    if (!long) {
      shown.type = "button";
      shown.dir = "auto";
      shown.title = `Show the pictures with this ${field.title}`;
      shown.addEventListener("click", () => {
        this.dialog.close();
        this.hears.filtered(field, headOf(field, text));
      });
    }
    value.append(shown);
    list.append(element("dt", "", field.title), value);
  }

  picked() {
    const { picture } = this;
    this.find("pick").setAttribute("aria-pressed", picture.selected);
    this.find("pick").textContent = picture.selected ? "Selected" : "Select";
  }

  pick() {
    this.hears.toggled(this.position);
    this.picked();
  }

  /** A finger that went across the picture goes to the next one. */
  swiped(end) {
    const [start, ...others] = this.touched ?? [];
    if (start === undefined || others.length || this.stage.classList.contains("large")) return;
    const across = end.clientX - start.clientX;
    if (Math.abs(across) > 50 + 2 * Math.abs(end.clientY - start.clientY)) this.go(this.position + (across < 0 ? 1 : -1));
  }

  zoom() {
    this.stage.classList.toggle("large");
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const large = this.stage.classList.contains("large");
    const keys = {
      ArrowRight: () => this.go(this.position + 1),
      ArrowLeft: () => this.go(this.position - 1),
      Home: () => this.go(0),
      End: () => this.go(this.pictures.length - 1),
      x: () => this.pick(),
      z: () => this.zoom(),
      c: () => this.hears.copied("command", [this.picture]),
    };
    const run = keys[event.key];
    if (run === undefined || (large && this.stage === event.target)) return;
    run();
    event.preventDefault();
  }
}

/** Lets the browser fetch the picture, so that it is there when its turn comes. */
function fetched(picture) {
  const image = new Image();
  image.src = picture.address;
  return image;
}

function bytesText(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let size = bytes;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit ? size.toFixed(1) : size} ${units[unit]}`;
}
