"""The pictures that scenes are made of: by name and style, and the names by each word that means them."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from colors import TINTS

PREFERRED = 0.7  # fraction of captions without a style that mean the first style
ORDINARY, TAG, KEYWORD = 8.0, 2.0, 0.5  # how often a word is taken, by where it comes from
VAGUE = 40  # a word with more meanings than that is none


@dataclass(frozen=True)
class Row:
    """One picture. tags: Unicode's words for it. words: other people's. color: its own, if one says most of it."""

    name: str
    style: str
    group: int
    tags: tuple[str, ...]
    words: tuple[str, ...]
    color: str | None


@dataclass(frozen=True)
class Catalogue:
    """
    by_name   name -> style -> row
    meanings  word -> name -> how often the word means it. Words written by hand (synonyms.json) mean their first name
              most; a tag means names that hold it most. A word that is a name means that alone, so it is not here
    ordinary  the words written by hand
    tags      Unicode's
    called    name -> words written by hand that mean it first
    tinted    rows with a color of their own
    things    names of what can stand beside another: no signs, no people
    """

    rows: Sequence[Row]
    styles: list[str] = field(default_factory=list)
    by_name: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    meanings: dict[str, dict[str, float]] = field(default_factory=dict)
    ordinary: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    called: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    tinted: list[int] = field(default_factory=list)
    things: list[str] = field(default_factory=list)
    _words: list[str] = field(default_factory=list)
    _often: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Catalogue:
        found = cls(rows)
        for i, row in enumerate(rows):
            found.by_name[row.name][row.style] = i
            if row.style not in found.styles:
                found.styles.append(row.style)
            if row.color in TINTS:
                found.tinted.append(i)
        found.things.extend(
            name for name, styles in found.by_name.items() if rows[min(styles.values())].group in range(3, 8)
        )
        found._learn_ordinary()
        found._learn(found.tags, lambda row: row.tags)
        often = dict.fromkeys(found.ordinary, ORDINARY) | dict.fromkeys(found.tags, TAG)
        keywords: list[str] = []
        found._learn(keywords, lambda row: row.words)
        often |= dict.fromkeys(keywords, KEYWORD)
        found._words.extend(often)
        found._often.extend(accumulate(often.values()))
        return found

    def _learn_ordinary(self) -> None:
        written = json.loads((Path(__file__).parent / "synonyms.json").read_text(encoding="utf-8"))
        for word, names in written.items():
            known = [name for name in names if name in self.by_name]
            if known and known != [word]:
                self.meanings[word] = dict.fromkeys(known, 1.0) | {known[0]: 1.0 + len(known)}
                self.ordinary.append(word)
                self.called[known[0]].append(word)

    def _learn(self, into: list[str], words_of: Callable[[Row], tuple[str, ...]]) -> None:
        names: dict[str, dict[str, float]] = defaultdict(dict)
        for row in self.rows:
            for word in words_of(row):
                if word not in self.by_name and word not in self.meanings:
                    names[word][row.name] = 3.0 if word in row.name.split() else 1.0
        clear = {word: means for word, means in names.items() if len(means) <= VAGUE}
        self.meanings.update(clear)
        into.extend(clear)

    def style(self, chance: random.Random, name: str, named: bool) -> str:
        """A style that the name has: any if captions name it, else mostly the first."""
        styles = self.by_name[name]
        if not named and self.styles[0] in styles and chance.random() < PREFERRED:
            return self.styles[0]
        return chance.choice(list(styles))

    def word(self, chance: random.Random) -> tuple[str, str]:
        """A word and a name that it means."""
        (word,) = chance.choices(self._words, cum_weights=self._often)
        means = self.meanings[word]
        (name,) = chance.choices(list(means), list(means.values()))
        return word, name
