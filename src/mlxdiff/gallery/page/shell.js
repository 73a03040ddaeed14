// Command lines: words that a shell reads back as they were, and that drive no terminal on the way.

// Controls, marks that turn the direction of writing, and what is invisible: pasted into a terminal, a control character
// is a key that is pressed, whatever quotes stand around it.
const UNSAFE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]|\p{Surrogate}/gu;
// What stands for letters in $'...': ! would call up an earlier command, where the shell is asked by a person.
const ESCAPES = { "\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\x27", "!": "\\x21" };

/** The text as one word of bash, zsh, or any POSIX shell where it holds nothing unsafe. */
function shellWord(text) {
  if (/^[\w@%+:,./-][\w@%+=:,./-]*$/.test(text)) return text;
  if (text.search(UNSAFE) < 0) return `'${text.replaceAll("'", `'"'"'`)}'`;
  const plain = text.replace(/[\\'!]/g, (letter) => ESCAPES[letter]);
  return `$'${plain.replace(UNSAFE, escaped)}'`;
}

function escaped(letter) {
  const code = letter.codePointAt(0);
  if (letter in ESCAPES) return ESCAPES[letter];
  if (code >= 0xd800 && code <= 0xdfff) return "\\ufffd"; // half a letter, which no shell has
  return code < 0x80 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

/** The bytes of a percent-encoded path. */
function bytesOf(path) {
  const bytes = [];
  for (const [, hex, letter] of path.matchAll(/%([0-9A-Fa-f]{2})|([^%]|%)/gu)) {
    if (hex !== undefined) bytes.push(parseInt(hex, 16));
    else bytes.push(...new TextEncoder().encode(letter));
  }
  return new Uint8Array(bytes);
}

/** A percent-encoded path as text, with U+FFFD for what is no UTF-8. */
function pathText(path) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytesOf(path));
}

/** A percent-encoded path as a word of a shell, with the bytes that it has. */
function shellPath(path) {
  const bytes = bytesOf(path.startsWith("-") ? `./${path}` : path);
  try {
    return shellWord(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    const parts = Array.from(bytes, (byte) => {
      const letter = String.fromCharCode(byte);
      if (letter in ESCAPES) return ESCAPES[letter];
      return byte >= 0x20 && byte < 0x7f ? letter : `\\x${byte.toString(16).padStart(2, "0")}`;
    });
    return `$'${parts.join("")}'`;
  }
}

/** Where a picture is, percent-encoded: in full where the page is a file on this disk, else as the page links to it. */
function pathOf(address, location) {
  if (location.protocol !== "file:") return address.replace(/^\.\//, "");
  const path = new URL(address, location.href).pathname;
  return /^\/[A-Za-z]:\//.test(path) ? path.slice(1) : path;
}

/** `mlxdiff generate ...` that says all settings. `said` is a list of [option, text]; the prompt's option is its name. */
function commandOf(said) {
  const words = ["mlxdiff", "generate"];
  const prompt = said.find(([option]) => option === "--prompt")?.[1] ?? "";
  if (!prompt.startsWith("-")) words.push(shellWord(prompt));
  for (const [option, text] of said) {
    if (option === "--prompt") continue;
    if (text.startsWith("-")) words.push(shellWord(`${option}=${text}`));
    else words.push(option, shellWord(text));
  }
  if (prompt.startsWith("-")) words.push("--", shellWord(prompt));
  return words.join(" ");
}

/** The text with every unsafe letter but line breaks shown as a sign. */
function visible(text) {
  return text.replace(UNSAFE, (letter) => (letter === "\n" ? letter : letter < " " ? " " : "\ufffd"));
}
