// The pictures and what they say. A field is a setting, or a fact about the file; values are texts, as options take them.

const FACTS = [
  { name: "program", title: "made with" },
  { name: "folder" },
  { name: "name", title: "file name", other: ["file"] },
  { name: "date", other: ["mtime"] },
  { name: "size", title: "size in pixels" },
  { name: "pixels", number: true },
  { name: "picture_width", number: true },
  { name: "picture_height", number: true },
  { name: "bytes", number: true, title: "file size" },
];
const SEARCHED = ["prompt", "hires_prompt", "model", "lora"]; // by words without a field, and so are file names

class Store {
  constructor(fields) {
    this.fields = [...fields, ...FACTS];
    this.nSettings = fields.length;
    this.strings = [];
    this.pictures = [];
    this.names = new Map();
    for (const field of this.fields) this.names.set(field.name, field);
    for (const [index, field] of this.fields.entries()) {
      field.index = index;
      field.title ??= field.name.replaceAll("_", " ");
      for (const other of field.other ?? []) if (!this.names.has(other)) this.names.set(other, field);
      for (const part of field.parts ?? []) {
        const name = `${field.name}.${part.name}`;
        this.names.set(name, { ...part, name, title: name.replaceAll("_", " "), of: field, part: part.name });
      }
    }
    this.searched = new Set(SEARCHED.map((name) => this.names.get(name)?.index));
    this.lowered = [];
    this.numbers = [];
  }

  /** Adds the pictures of a block of the file (blocks.py says what stands where). */
  add(block) {
    for (const text of block.strings) this.strings.push(text);
    for (const row of block.rows) {
      const [address, bytes, modified, width, height, program, exact, settings, notes, command, written, thumbnail] = row;
      const path = pathText(address.replace(/^\.\//, ""));
      const cut = path.lastIndexOf("/");
      this.pictures.push({
        index: this.pictures.length,
        address, bytes, modified, width, height, settings, notes, command, written, thumbnail,
        exact: exact === 1,
        program: this.strings[program],
        file: path.slice(cut + 1),
        folder: cut < 0 ? "." : path.slice(0, cut),
        selected: false,
      });
    }
  }

  /** The field that a name means: its own, an option's with dashes, or the beginning of one alone; or undefined. */
  field(name) {
    const wanted = name.toLowerCase().replaceAll("-", "_");
    const exact = this.names.get(wanted);
    if (exact || wanted.length < 3) return exact;
    const begun = this.fields.filter((field) => field.name.startsWith(wanted));
    return begun.length === 1 ? begun[0] : undefined;
  }

  /** What the picture says of a setting itself: a list, since some are given several times. */
  said(picture, field) {
    const found = [];
    const { settings } = picture;
    for (let i = 0; i < settings.length; i += 2) {
      if (settings[i] === field.index) found.push(this.strings[settings[i + 1]]);
    }
    return found;
  }

  /** The texts of a field; where a picture is silent, what holds unasked. */
  values(picture, field) {
    switch (field.name) {
      case "program": return picture.program ? [picture.program] : [];
      case "folder": return [picture.folder];
      case "name": return [picture.file];
      case "date": return [(picture.date ??= dateText(picture.modified))];
      case "size": return [`${picture.width}x${picture.height}`];
      case "pixels": return [String(picture.width * picture.height)];
      case "picture_width": return [String(picture.width)];
      case "picture_height": return [String(picture.height)];
      case "bytes": return [String(picture.bytes)];
    }
    if (field.of !== undefined) {
      return this.said(picture, field.of).flatMap((text) => partsOf(field.of, text)[field.part] ?? field.unasked ?? []);
    }
    const found = this.said(picture, field).map((text) => headOf(field, text));
    return found.length === 0 && field.unasked !== undefined && picture.program ? [field.unasked] : found;
  }

  /** [field, text] of all that the picture says, in the order of the declarations. */
  settings(picture) {
    const found = [];
    for (let i = 0; i < picture.settings.length; i += 2) {
      found.push([this.fields[picture.settings[i]], this.strings[picture.settings[i + 1]]]);
    }
    return found;
  }

  prompt(picture) {
    return this.said(picture, this.names.get("prompt")).join("\n");
  }

  lower(place) {
    return (this.lowered[place] ??= this.strings[place].toLowerCase());
  }

  /** Where the file is, for a shell; see pathOf. */
  shellPath(picture, location) {
    return shellPath(pathOf(picture.address, location));
  }

  /** The command line that renders the picture again, or an empty text where it says nothing of how it was made. */
  command(picture, location) {
    if (picture.command) return ["mlxdiff", ...picture.command].map(shellWord).join(" ");
    if (picture.exact) return commandOf(this.settings(picture).map(([field, text]) => [field.option, text]));
    return this.from(picture, location);
  }

  /** The command line that renders again with what stands in the file. */
  from(picture, location) {
    if (!picture.program || picture.command) return "";
    return `mlxdiff generate --from ${this.shellPath(picture, location)}`;
  }

  /**
   * How often each value of each setting occurs among these pictures, and of program, folder and size: a map of maps.
   * "" stands for none. A field with more than `most` values has undefined.
   */
  survey(pictures, most = Infinity) {
    const places = Array.from({ length: this.nSettings }, () => new Map());
    const having = new Array(this.nSettings).fill(0);
    const facts = ["program", "folder", "size"].map((name) => [this.names.get(name), new Map()]);
    let told = 0; // pictures that say anything
    for (const picture of pictures) {
      const { settings } = picture;
      for (let i = 0, last = -1; i < settings.length; i += 2) {
        const counts = places[settings[i]];
        if (counts.size <= most) add(counts, settings[i + 1]);
        if (settings[i] !== last) having[(last = settings[i])] += 1;
      }
      if (picture.program) told += 1;
      for (const [field, counts] of facts) add(counts, this.values(picture, field)[0] ?? "");
    }
    const found = new Map(facts);
    for (const [index, counts] of places.entries()) {
      const field = this.fields[index];
      const named = new Map();
      for (const [place, count] of counts) add(named, headOf(field, this.strings[place]), count);
      const silent = field.unasked === undefined ? 0 : told - having[index];
      if (silent > 0) add(named, field.unasked, silent);
      const without = pictures.length - having[index] - silent;
      if (without > 0) add(named, "", without);
      found.set(field, named);
    }
    for (const [field, counts] of found) if (counts.size > most) found.set(field, undefined);
    return found;
  }

  /** The pictures in the order of a field; those without a value come last. */
  sorted(pictures, field, descending) {
    if (!field) return descending ? [...pictures].reverse() : pictures;
    const collator = new Intl.Collator(undefined, { numeric: true });
    const keyed = pictures.map((picture) => {
      const text = field.name === "date" ? String(picture.modified) : (this.values(picture, field)[0] ?? "");
      return { picture, text, number: field.number || field.name === "date" ? Number(text || NaN) : NaN };
    });
    const sign = descending ? -1 : 1;
    keyed.sort((a, b) => {
      if ((a.text === "") !== (b.text === "")) return a.text === "" ? 1 : -1;
      const byNumber = a.number - b.number;
      const order = Number.isNaN(byNumber) ? collator.compare(a.text, b.text) : byNumber;
      return sign * order || a.picture.index - b.picture.index;
    });
    return keyed.map(({ picture }) => picture);
  }
}

function add(counts, key, count = 1) {
  counts.set(key, (counts.get(key) ?? 0) + count);
}

/** Of a value with parts, `REF[=IMAGE][,key=value]...`: the texts by key, and REF as `head`. */
function partsOf(field, text) {
  const found = {};
  for (;;) {
    const tail = /^(.*),\s*(\w+)\s*=([^,=]*)$/su.exec(text);
    if (tail === null || !field.parts.some(({ name }) => name === tail[2])) break;
    text = tail[1];
    found[tail[2]] = tail[3];
  }
  const cut = field.heads > 1 ? text.indexOf("=") : -1;
  return { ...found, head: (cut < 0 ? text : text.slice(0, cut)).trim() };
}

/** What a value is called by: of one with parts, what it refers to. */
function headOf(field, text) {
  return field.parts === undefined ? text : partsOf(field, text).head;
}

/** 2026-11-26 14:05:59, in this computer's time. */
function dateText(milliseconds) {
  const date = new Date(milliseconds);
  const two = (number) => String(number).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}
