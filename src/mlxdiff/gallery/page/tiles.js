// The grid: only the tiles that can be seen, and some beside them, are elements of the page.

const GAP = 8; // pixels between tiles
const IDLE = 150; // milliseconds without scrolling, after which thumbnails that are too small are replaced

class Tiles {
  /** `hears` has the functions opened(position), toggled(position), extended(position) and moved(position). */
  constructor(scroller, list, thumbnailSize, hears) {
    Object.assign(this, { scroller, list, thumbnailSize, hears });
    this.pictures = [];
    this.wanted = 160; // pixels of a tile's side
    this.active = 0; // the position that has the keyboard
    this.shown = new Map(); // position -> tile
    this.spare = [];
    scroller.addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(scroller);
    list.addEventListener("click", (event) => this.clicked(event));
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("focus", () => this.focus(this.active));
  }

  /** Shows these pictures, from the top unless `stay`. */
  show(pictures, stay) {
    this.pictures = pictures;
    this.active = stay ? Math.min(this.active, Math.max(0, pictures.length - 1)) : 0;
    for (const [position, tile] of this.shown) if (pictures[position] !== tile.picture) this.drop(position);
    if (!stay) this.scroller.scrollTop = 0;
    this.layout();
    this.marks();
  }

  /** More pictures at the end of the same list. */
  grown() {
    if (this.columns === undefined) return;
    this.heighten();
    this.soon();
  }

  resize(side) {
    this.wanted = side;
    this.layout();
  }

  layout() {
    const style = getComputedStyle(this.scroller);
    const width = this.scroller.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (width <= 0) return;
    const { pitch, columns } = this;
    const first = columns === undefined ? 0 : Math.floor(this.scroller.scrollTop / pitch) * columns;
    this.columns = Math.max(1, Math.floor((width + GAP) / (this.wanted + GAP)));
    this.side = (width - GAP * (this.columns - 1)) / this.columns;
    this.pitch = this.side + GAP;
    this.laid = Symbol("layout"); // tiles that were placed in another one are placed anew
    this.heighten();
    // What stood at the top still does.
    if (this.pitch !== pitch) this.scroller.scrollTop = Math.floor(first / this.columns) * this.pitch;
    this.draw();
  }

  heighten() {
    this.list.style.height = `${Math.max(0, Math.ceil(this.pictures.length / this.columns) * this.pitch - GAP)}px`;
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  draw() {
    const { scrollTop, clientHeight } = this.scroller;
    const margin = clientHeight / 2;
    const first = Math.max(0, Math.floor((scrollTop - margin) / this.pitch)) * this.columns;
    const end = Math.ceil((scrollTop + clientHeight + margin) / this.pitch) * this.columns;
    const last = Math.min(this.pictures.length, end);
    for (const position of this.shown.keys()) if (position < first || position >= last) this.drop(position);
    for (let position = first; position < last; position++) this.place(position);
    clearTimeout(this.idle);
    if (this.side * devicePixelRatio > this.thumbnailSize * 1.25) this.idle = setTimeout(() => this.sharpen(), IDLE);
  }

  place(position) {
    let tile = this.shown.get(position);
    const picture = this.pictures[position];
    if (tile === undefined) {
      tile = this.spare.pop() ?? newTile();
      this.shown.set(position, tile);
      tile.picture = picture;
      tile.id = `tile-${position}`;
      const [image] = tile.children;
      image.src = `data:image/webp;base64,${picture.thumbnail}`;
      tile.sharp = false;
      tile.setAttribute("aria-label", this.hears.described(picture));
      tile.setAttribute("aria-posinset", position + 1);
      tile.laid = undefined;
      this.mark(position, tile);
      this.list.append(tile);
    }
    if (tile.laid === this.laid) return;
    tile.laid = this.laid;
    tile.setAttribute("aria-setsize", this.pictures.length);
    const x = (position % this.columns) * this.pitch;
    const y = Math.floor(position / this.columns) * this.pitch;
    tile.style.transform = `translate(${x}px, ${y}px)`;
    tile.style.width = tile.style.height = `${this.side}px`;
  }

  mark(position, tile) {
    tile.setAttribute("aria-selected", tile.picture.selected);
    tile.classList.toggle("active", position === this.active);
  }

  /** Shows anew which tiles are selected and which one has the keyboard. */
  marks() {
    for (const [position, tile] of this.shown) this.mark(position, tile);
  }

  drop(position) {
    const tile = this.shown.get(position);
    this.shown.delete(position);
    tile.remove();
    tile.children[0].removeAttribute("src");
    this.spare.push(tile);
  }

  /** Tiles larger than their thumbnails show the pictures themselves, once nobody scrolls. */
  sharpen() {
    for (const tile of this.shown.values()) {
      const { picture } = tile;
      if (tile.sharp || Math.max(picture.width, picture.height) <= this.thumbnailSize) continue;
      tile.sharp = true;
      const whole = new Image();
      whole.src = picture.address;
      const replace = () => {
        if (tile.picture === picture && tile.sharp) tile.children[0].src = whole.src;
      };
      whole.decode().then(replace, () => {}); // a picture that is gone keeps its thumbnail
    }
  }

  positionOf(element) {
    const tile = element.closest(".tile");
    return tile === null ? undefined : Number(tile.id.slice("tile-".length));
  }

  clicked(event) {
    const position = this.positionOf(event.target);
    if (position === undefined) return;
    const before = this.active;
    this.focus(position);
    if (event.shiftKey) this.hears.extended(before, position);
    else if (event.ctrlKey || event.metaKey || event.target.closest(".check")) this.hears.toggled(position);
    else this.hears.opened(position);
  }

  key(event) {
    if (event.altKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.pitch)) * this.columns;
    const last = this.pictures.length - 1;
    const ways = {
      ArrowRight: this.active + 1,
      ArrowLeft: this.active - 1,
      ArrowDown: this.active + this.columns <= last ? this.active + this.columns : this.active,
      ArrowUp: this.active - this.columns >= 0 ? this.active - this.columns : this.active,
      PageDown: this.active + page,
      PageUp: this.active - page,
      Home: 0,
      End: last,
    };
    if (last < 0) return;
    if (event.key in ways) {
      const before = this.active;
      this.focus(Math.min(last, Math.max(0, ways[event.key])));
      if (event.shiftKey) this.hears.extended(before, this.active);
    } else if (event.key === " " || event.key === "x") this.hears.toggled(this.active);
    else if (event.key === "Enter") this.hears.opened(this.active);
    else return;
    event.preventDefault();
  }

  /** Gives a position the keyboard, and scrolls to it. */
  focus(position) {
    if (!this.pictures.length) return;
    this.active = position;
    const top = Math.floor(position / this.columns) * this.pitch;
    const { scrollTop, clientHeight } = this.scroller;
    const inset = this.list.offsetTop;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.side + 2 * inset > scrollTop + clientHeight) {
      this.scroller.scrollTop = top + this.side + 2 * inset - clientHeight;
    }
    this.draw();
    this.marks();
    this.list.setAttribute("aria-activedescendant", `tile-${position}`);
  }
}

function newTile() {
  const tile = element("div", "tile");
  tile.setAttribute("role", "option");
  const image = element("img");
  image.alt = "";
  image.decoding = "async";
  image.draggable = false;
  const check = element("span", "check");
  check.setAttribute("aria-hidden", "true");
  tile.append(image, check);
  return tile;
}

/** A new element with a class and a text; texts are never read as HTML. */
function element(name, className = "", text = undefined) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
