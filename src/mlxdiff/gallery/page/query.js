// What is typed into the search field: words, and conditions on fields, all of which must hold.
//
//   red apple          both words occur in the prompt, the model, a LoRA or the file's name
//   "red apple"        with the blank between them
//   -dark              does not occur
//   steps>20           also >= < <= = !=; a picture that does not say its steps fits none of them
//   sampler=euler,ddim one of these; lora="" is none at all
//   negative:blurry    occurs in this field; lora:* is any; lora.scale>0.5 is about a part of one

const VALUE = String.raw`(?:"(?:[^"\\]|\\.)*"?|[^\s"])`;
const CONDITION = new RegExp(String.raw`(-?)([A-Za-z][\w.-]*)(?:(:)(${VALUE}*)|\s*(<=|>=|!=|==?|<|>)\s*(${VALUE}*))`, "suy");
const WORD = /(-?)("(?:[^"\\]|\\.)*"?|\S+)/suy;
const BLANK = /\s*/uy;
const ITEM = /"((?:[^"\\]|\\.)*)"?|([^",]+)/gsu;

/** {field, op, values, negative, start, end} of each term; `unknown` has the names that are no field. */
function parseQuery(text, store) {
  const terms = [];
  const unknown = [];
  const next = (pattern, start) => {
    pattern.lastIndex = start;
    return pattern.exec(text);
  };
  for (let at = next(BLANK, 0)[0].length; at < text.length; at += next(BLANK, at)[0].length) {
    const condition = next(CONDITION, at);
    const field = condition === null ? undefined : store.field(condition[2]);
    if (field !== undefined) {
      const [whole, minus, , colon, part, sign, value] = condition;
      const op = colon ?? sign.replace("==", "=");
      const end = at + whole.length;
      terms.push({ field, op, values: itemsOf(part ?? value), negative: minus !== "", start: at, end });
      at = end;
      continue;
    }
    if (condition?.[5] !== undefined) unknown.push(condition[2]);
    const [whole, minus, said] = next(WORD, at);
    const start = at;
    at += whole.length;
    const [item] = said.startsWith('"') ? itemsOf(said) : [said];
    if (item !== "") terms.push({ op: "words", values: [item.toLowerCase()], negative: minus !== "", start, end: at });
  }
  const conditions = terms.some((term) => term.field !== undefined);
  return { terms: terms.filter((term) => !conditions || term.op !== "words" || term.values[0] !== "and"), unknown };
}

function itemsOf(value) {
  const items = Array.from(value.matchAll(ITEM), ([, quoted, bare]) => (quoted ?? bare).replace(/\\(.)/gsu, "$1"));
  return items.length ? items : [""];
}

/** The text of a condition that a value equals, or one of several. */
function equalTerm(field, values) {
  const items = values.map((value) => (/^[^\s",\\]+$/u.test(value) ? value : `"${value.replace(/["\\]/g, "\\$&")}"`));
  return `${field.name}=${items.join(",")}`;
}

/** The query with a value of a field added to what it asks for, or taken out. */
function toggled(text, store, field, value) {
  const term = parseQuery(text, store).terms.find((each) => each.field === field && each.op === "=" && !each.negative);
  if (term === undefined) return `${text.trimEnd()} ${equalTerm(field, [value])}`.trimStart();
  const wanted = value.toLowerCase();
  const others = term.values.filter((each) => each.toLowerCase() !== wanted);
  if (others.length === term.values.length) others.push(value);
  const made = others.length ? equalTerm(field, others) : "";
  return (text.slice(0, term.start) + made + text.slice(term.end)).replace(/ {2,}/g, " ").trim();
}

/** Whether a picture fits all terms, as a function. */
function matcher(terms, store) {
  const tests = terms.map((term) => {
    const test = term.op === "words" ? wordsTest(term, store) : fieldTest(term, store);
    return term.negative ? (picture) => !test(picture) : test;
  });
  return (picture) => tests.every((test) => test(picture));
}

/** Each distinct text is looked through once, however many pictures have it. */
function wordsTest({ values: [word] }, store) {
  const known = [];
  return (picture) => {
    const { settings } = picture;
    for (let i = 0; i < settings.length; i += 2) {
      if (!store.searched.has(settings[i])) continue;
      const place = settings[i + 1];
      if ((known[place] ??= store.lower(place).includes(word))) return true;
    }
    return (picture.lowerFile ??= picture.file.toLowerCase()).includes(word);
  };
}

function fieldTest({ field, op, values }, store) {
  if (op === "!=") {
    const test = fieldTest({ field, op: "=", values }, store);
    return (picture) => store.values(picture, field).length > 0 && !test(picture);
  }
  const wanted = values.map((value) => ({ text: value.toLowerCase(), number: value.trim() ? Number(value) : NaN }));
  const compare = (text) => wanted.some((each) => COMPARE[op](text.toLowerCase(), each, field));
  const known = new Map();
  return (picture) => {
    const texts = store.values(picture, field);
    if (texts.length === 0) return op === "=" && values.includes("");
    return texts.some((text) => {
      let result = known.get(text);
      if (result === undefined) known.set(text, (result = compare(text)));
      return result;
    });
  };
}

const COMPARE = {
  "=": (text, { text: wanted, number }, field) =>
    text === wanted || (field.number && Number(text) === number) || (field.name === "date" && begins(text, wanted)),
  ":": (text, { text: wanted }) => wanted === "*" || text.includes(wanted),
  "<": (text, wanted, field) => order(text, wanted, field) < 0,
  "<=": (text, wanted, field) => order(text, wanted, field) <= 0,
  ">": (text, wanted, field) => order(text, wanted, field) > 0,
  ">=": (text, wanted, field) => order(text, wanted, field) >= 0,
};

function begins(text, wanted) {
  return wanted !== "" && text.startsWith(wanted);
}

/** Below 0, 0 or above; a date is compared as far as it is written: date<=2026-11 has all of November. */
function order(text, { text: wanted, number }, field) {
  if (field.number) return Number(text) - number;
  const part = field.name === "date" ? text.slice(0, wanted.length) : text;
  return part < wanted ? -1 : part > wanted ? 1 : 0;
}
