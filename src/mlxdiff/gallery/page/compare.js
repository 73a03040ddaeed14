// Several pictures side by side, with the settings in which they differ, and no others.

const MOST_COMPARED = 12;

class Compare {
  /** `hears` has deselected(picture), which takes it out of the selection, and closed(). */
  constructor(dialog, figures, store, hears) {
    Object.assign(this, { dialog, figures, store, hears });
    dialog.addEventListener("close", () => hears.closed());
  }

  open(pictures) {
    this.show(pictures.slice(0, MOST_COMPARED));
    if (!this.dialog.open) this.dialog.showModal();
  }

  show(pictures) {
    const fields = this.differing(pictures);
    this.figures.replaceChildren(...pictures.map((picture) => this.figure(picture, fields, pictures)));
  }

  /** The fields that do not say the same of all pictures. */
  differing(pictures) {
    const facts = ["program", "size"].map((name) => this.store.names.get(name));
    const fields = [...this.store.fields.slice(0, this.store.nSettings), ...facts];
    return fields.filter((field) => new Set(pictures.map((picture) => this.text(picture, field))).size > 1);
  }

  text(picture, field) {
    const texts = field.index < this.store.nSettings ? this.store.said(picture, field) : undefined;
    return (texts?.length ? texts : this.store.values(picture, field)).join(", ");
  }

  figure(picture, fields, pictures) {
    const figure = element("figure");
    const image = element("img");
    image.src = picture.address;
    image.alt = this.store.prompt(picture) || visible(picture.file);
    image.style.backgroundImage = `url("data:image/webp;base64,${picture.thumbnail}")`;
    image.width = picture.width;
    image.height = picture.height;
    const caption = element("figcaption");
    const list = element("dl");
    for (const field of fields) {
      list.append(element("dt", "", field.title), element("dd", "text", visible(this.text(picture, field)) || "none"));
    }
    const out = element("button", "", "Deselect");
    out.type = "button";
    out.addEventListener("click", () => {
      this.hears.deselected(picture);
      const rest = pictures.filter((each) => each !== picture);
      if (rest.length < 2) this.dialog.close();
      else this.show(rest);
      this.figures.querySelector("button")?.focus();
    });
    caption.append(out, element("bdi", "text", visible(picture.file)), list);
    figure.append(image, caption);
    return figure;
  }
}
