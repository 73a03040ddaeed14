"""Text as CLIP's tokenizer sees it: normalized, lower case, cut into words.

The reference is transformers' CLIPTokenizer, whose parts know different versions of Unicode: NFC is that of 9.0, the
letters and numbers are those of 16.0, lower case is that of 17.0. What Python and the `regex` package know depends on
their versions, so each step here is pinned to the reference's; a test walks every code point.
"""

from __future__ import annotations

import unicodedata

import regex

# Characters newer than Unicode 9.0 that combine, decompose or compose in later versions, in ranges that hold no older
# character. The reference takes each for one that stands alone, so NFC works on the text between them.
_UNKNOWN_TO_NFC = """
5C8-5C9 7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1AF0 1DF6-1DFA A82C 105C9-105E4 10D24-10D27 10D69-10D6D
10EAB-10EAC 10ECB-10ECF 10EF0-10EFF 10F46-10F50 10F82-10F85 11070 1133B 11380-113D0 1145E 11839-1183A 11930-11943
119E0 11A34 11A47 11A99 11D42-11D45 11D97 11F41-11F42 16100-1612F 16D63-16D6A 16FF0-16FF1 1D127-1D128 1D250-1D281
1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF 1E6E3-1E6F5
"""
# Letters and numbers that came after Unicode 16.0.
_NEW_LETTERS = """
558 58B-58C 88F C5C CDC 208F 209D-209F A7CE-A7CF A7D2 A7D4 A7DD-A7F1 AB6C-AB6D 107BB-107BF 10940-10959 10EC5-10EEE
11B0A 11DB0-11DF1 16EA0-16ED3 16FF2-16FF3 187F8-187FF 18CD6-18CDA 18D09-191D2 1B123-1B128 1B168 1D6A6 1DF1F-1DF24
1DF2B-1DFFF 1E6C0-1E6FF 2B73A-2B73F 2B81E 2CEA2-2CEAD 323B0-3FC3F
"""
_NEW_NUMBERS = "11DE0-11DE9 1246F-12686 16FF4-16FF6"
# Capitals that came after Unicode 13.0, the oldest that a supported Python has: first, last, distance to lower case.
_NEW_CAPITALS = (
    (0x1C89, 0x1C89, 1),
    (0x2C2F, 0x2C2F, 48),
    (0xA7C0, 0xA7C0, 1),
    (0xA7CB, 0xA7CB, 0x264 - 0xA7CB),
    *((capital, capital, 1) for capital in (0xA7CC, 0xA7CE, *range(0xA7D0, 0xA7DC, 2))),
    (0xA7DC, 0xA7DC, 0x19B - 0xA7DC),
    (0x10570, 0x1057A, 39),
    (0x1057C, 0x1058A, 39),
    (0x1058C, 0x10592, 39),
    (0x10594, 0x10595, 39),
    (0x10D50, 0x10D65, 32),
    (0x16EA0, 0x16EB8, 27),
)
# The reference lowers each character alone; Python's `lower` would turn a capital sigma that ends a word into ς.
_LOWER = {ord("Σ"): "σ"} | {
    capital: chr(capital + distance) for first, last, distance in _NEW_CAPITALS for capital in range(first, last + 1)
}


def _char_class(ranges: str) -> str:
    """Hexadecimal ranges as the inside of a regular expression's character class."""
    ends = [[f"\\U{int(end, 16):08X}" for end in span.split("-")] for span in ranges.split()]
    return "".join("-".join(span) for span in ends)


_ALONE = regex.compile(f"([{_char_class(_UNKNOWN_TO_NFC)}])")
_SPACES = regex.compile(r"\s+")
_LETTER = rf"[\p{{L}}--[{_char_class(_NEW_LETTERS)}]]"
_NUMBER = rf"[\p{{N}}--[{_char_class(_NEW_NUMBERS)}]]"
_NAMES = {f"<|{name}|>": ("<|", name, "|>") for name in ("startoftext", "endoftext")}
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    rf"|{_LETTER}+|{_NUMBER}|[^\s||{_LETTER}||{_NUMBER}]+",
    regex.VERSION1,
)


def normalize(text: str) -> str:
    """NFC, each run of white space one space, lower case."""
    if not text.isascii():
        text = "".join(unicodedata.normalize("NFC", part) for part in _ALONE.split(text))
    return _SPACES.sub(" ", text).translate(_LOWER).lower()


def words(text: str) -> list[str]:
    """Cuts normalized text into runs of letters, single digits, English contractions and runs of anything else.

    White space only separates. The names of CLIP's two special tokens, where they were not taken for the tokens
    themselves, end a run but are cut in three, as a second pass of the reference does.
    """
    return [part for word in _WORDS.findall(text) for part in _NAMES.get(word, (word,))]
