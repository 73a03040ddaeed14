"""What is drawn and what is said of it: a scene is a few pictures on a ground, and a caption that is true of them.

Knows no pixels: a picture is a row of the catalogue. canvas.py draws scenes.
"""

from __future__ import annotations

import json
import random
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import captions
from colors import GROUNDS, TINTS


AT_MOST = 4  # layers of a scene
PREFERRED = 0.7  # fraction of captions without a style that mean the first style
HELD_OUT = 40  # one of so many (name, style, background) is never trained on
HEADS = (
    "dog face,cat face,mouse face,rabbit face,cow face,pig face,tiger face,monkey face,hamster,bear,polar bear,koala,panda,"
    "fox,lion,frog,wolf,robot,alien,ghost,jack o lantern,slightly smiling face,grinning face,moon face,full moon face"
).split(",")
EYES = ("sunglasses", "glasses")
HATS = ("top hat", "crown", "graduation cap", "womans hat", "rescue workers helmet", "billed cap")


@dataclass(frozen=True)
class Row:
    """One picture of the catalogue; color is its own, if it has one that says most of it."""

    name: str
    style: str
    group: int
    words: tuple[str, ...]
    color: str | None


@dataclass(frozen=True)
class Layer:
    """Where a picture stands: centre in [-1, 1], its side as a fraction of the ground's, degrees, and a new color."""

    row: int
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    angle: float = 0.0
    mirrored: bool = False
    tint: str | None = None


@dataclass(frozen=True)
class Scene:
    layers: tuple[Layer, ...]
    ground: tuple[int, int, int]
    caption: str


@dataclass(frozen=True)
class Catalogue:
    """The pictures by name and style, and the names by each word that means them."""

    rows: Sequence[Row]
    by_name: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    by_word: dict[str, list[str]] = field(default_factory=dict)
    styles: list[str] = field(default_factory=list)
    tinted: list[int] = field(default_factory=list)  # rows that have a color of their own
    things: list[str] = field(default_factory=list)  # names of what can stand beside another: no signs, no people

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Catalogue:
        found = cls(rows)
        words: dict[str, dict[str, None]] = defaultdict(dict)
        for i, row in enumerate(rows):
            found.by_name[row.name][row.style] = i
            for word in row.words:
                words[word][row.name] = None
            if row.style not in found.styles:
                found.styles.append(row.style)
            if row.color in TINTS:
                found.tinted.append(i)
        synonyms = json.loads((Path(__file__).parent / "synonyms.json").read_text(encoding="utf-8"))
        for word, names in synonyms.items():
            known = [name for name in names if name in found.by_name]
            if known:
                words[word] = dict.fromkeys(known)  # written by hand, so instead of the tags
        found.by_word.update({word: list(names) for word, names in words.items() if len(names) <= 60})
        found.things.extend(
            name for name, styles in found.by_name.items() if rows[min(styles.values())].group in range(3, 8)
        )
        return found

    def style(self, chance: random.Random, name: str, named: bool) -> str:
        """A style that the name has: any if captions name it, else mostly the first."""
        styles = self.by_name[name]
        if not named and self.styles[0] in styles and chance.random() < PREFERRED:
            return self.styles[0]
        return chance.choice(list(styles))


def held_out(name: str, style: str, ground: str) -> bool:
    """Whether a combination is kept for evaluate.py."""
    return zlib.crc32(f"{name}|{style}|{ground}".encode()) % HELD_OUT == 0


def scene(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A scene of a random kind."""
    kinds = (single, free_word, recolored, moved, pair, several, dressed)
    (kind,) = chance.choices(kinds, (46, 18, 8, 9, 9, 6, 4))
    return kind(catalogue, chance)


def single(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A picture as it is, by its name."""
    name = chance.choice(list(catalogue.by_name))
    return _alone(catalogue, chance, name, name)


def free_word(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A picture as it is, by a word that means it; names that hold the word come more often."""
    word = chance.choice(list(catalogue.by_word))
    names = catalogue.by_word[word]
    (name,) = chance.choices(names, [3 if word in name else 1 for name in names])
    return _alone(catalogue, chance, name, word)


def recolored(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A picture in another color than its own: "a blue apple"."""
    row = catalogue.rows[chance.choice(catalogue.tinted)]
    named = chance.random() < 0.5
    style = catalogue.style(chance, row.name, named)
    i = catalogue.by_name[row.name][style]
    own = catalogue.rows[i].color
    if own not in TINTS:
        return single(catalogue, chance)
    tint = chance.choice(list(TINTS))
    said = _without_color(row.name)
    layer = Layer(i, tint=None if tint == own else tint)
    return _finish(catalogue, chance, (layer,), captions.article(f"{tint} {said}"), style if named else None)


def moved(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A picture smaller, aside or tilted, which the caption says."""
    name = chance.choice(list(catalogue.by_name))
    named = chance.random() < 0.5
    style = catalogue.style(chance, name, named)
    scale = chance.uniform(0.35, 0.65)
    x, y, angle, place = 0.0, 0.0, 0.0, ""
    kind = chance.random()
    if kind < 0.3:
        x = chance.choice((-1, 1)) * chance.uniform(0.3, 1 - scale)
        place = " on the left" if x < 0 else " on the right"
    elif kind < 0.5:
        y = chance.choice((-1, 1)) * chance.uniform(0.3, 1 - scale)
        place = " at the top" if y < 0 else " at the bottom"
    elif kind < 0.7:
        scale, angle = chance.uniform(0.7, 0.85), chance.choice((-1, 1)) * chance.uniform(15, 40)
    said = f"tilted {name}" if angle else f"{chance.choice(captions.SMALL)} {name}"
    if place and chance.random() < 0.3:
        said = name
    layer = Layer(catalogue.by_name[name][style], x, y, scale, angle)
    return _finish(catalogue, chance, (layer,), f"{captions.article(said)}{place}", style if named else None)


def pair(catalogue: Catalogue, chance: random.Random) -> Scene:
    """Two things beside each other, in one style, in the caption's order from left to right."""
    names = chance.sample(catalogue.things, 2)
    named = chance.random() < 0.5
    style = catalogue.style(chance, names[0], named)
    if style not in catalogue.by_name[names[1]]:
        return single(catalogue, chance)
    side, scale = chance.uniform(0.46, 0.5), chance.uniform(0.46, 0.52)
    layers = [
        Layer(catalogue.by_name[name][style], x, chance.uniform(-0.06, 0.06), scale)
        for name, x in zip(names, (-side, side), strict=True)
    ]
    said = chance.choice(captions.PAIRS).format(*(captions.article(_heard(chance, name)) for name in names))
    return _finish(catalogue, chance, tuple(layers), said, style if named else None)


def several(catalogue: Catalogue, chance: random.Random) -> Scene:
    """Two to four of the same: "three apples"."""
    name = chance.choice(catalogue.things)
    named = chance.random() < 0.5
    style = catalogue.style(chance, name, named)
    number = chance.choice((2, 3, 4))
    spots = {
        2: [(-0.48, 0.0), (0.48, 0.0)],
        3: [(0.0, -0.45), (-0.48, 0.45), (0.48, 0.45)],
        4: [(-0.48, -0.48), (0.48, -0.48), (-0.48, 0.48), (0.48, 0.48)],
    }[number]
    scale = chance.uniform(0.46, 0.52)
    row = catalogue.by_name[name][style]
    layers = [Layer(row, x + chance.uniform(-0.03, 0.03), y + chance.uniform(-0.03, 0.03), scale) for x, y in spots]
    heard = _without_color(name) if name.split()[0] in TINTS and chance.random() < 0.5 else _heard(chance, name)
    said = f"{chance.choice(captions.NUMBERS[number])} {captions.plural(heard)}"
    return _finish(catalogue, chance, tuple(layers), said, style if named else None)


def dressed(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A face with glasses or a hat on it: "a cat with sunglasses"."""
    heads = [name for name in HEADS if name in catalogue.by_name]
    worn = [name for name in (*EYES, *HATS) if name in catalogue.by_name]
    if not heads or not worn:
        return single(catalogue, chance)
    head = chance.choice(heads)
    thing = (
        chance.choice([name for name in worn if name in EYES] or worn) if chance.random() < 0.6 else chance.choice(worn)
    )
    named = chance.random() < 0.4
    style = catalogue.style(chance, head, named)
    if style not in catalogue.by_name[thing]:
        return single(catalogue, chance)
    below, above = catalogue.by_name[head][style], catalogue.by_name[thing][style]
    if thing in EYES:
        layers = (Layer(below), Layer(above, 0.0, chance.uniform(-0.08, 0.0), chance.uniform(0.62, 0.7)))
    else:
        layers = (
            Layer(below, 0.0, 0.22, 0.78),
            Layer(above, 0.0, chance.uniform(-0.68, -0.6), chance.uniform(0.48, 0.56)),
        )
    with_ = chance.choice(("with", "with", "wearing"))
    said = f"{captions.article(_heard(chance, head))} {with_} {captions.article(thing) if thing not in EYES else thing}"
    return _finish(catalogue, chance, layers, said, style if named else None)


def _alone(catalogue: Catalogue, chance: random.Random, name: str, said: str) -> Scene:
    """One picture as it is, called `said`; its color and a word for its kind may be said too."""
    named = chance.random() < (0.65 if said == name else 0.4)
    style = catalogue.style(chance, name, named)
    i = catalogue.by_name[name][style]
    row = catalogue.rows[i]
    if row.color is not None and row.color not in said and chance.random() < 0.12:
        said = f"{row.color} {said}"
    elif row.group == 3 and chance.random() < 0.2:
        said = f"{chance.choice(captions.KIND)} {said}"
    elif said == name and row.words and chance.random() < 0.08:
        said = f"{name}, {chance.choice(row.words)}"
    elif chance.random() < 0.03:
        said = f"{chance.choice(captions.LARGE)} {said}"
    text = captions.article(said) if chance.random() < 0.75 else said
    return _finish(catalogue, chance, (Layer(i),), text, style if named else None)


def _finish(
    catalogue: Catalogue, chance: random.Random, layers: tuple[Layer, ...], text: str, style: str | None
) -> Scene:
    """Puts layers on a ground and says which, if it is not white; never a combination that is held out."""
    row = catalogue.rows[layers[0].row]
    while True:
        color = "white" if chance.random() < 0.6 else chance.choice(list(GROUNDS))
        if len(layers) > 1 or not held_out(row.name, row.style, color):
            break
    text = captions.opened(chance, text)
    if style is not None:
        text = captions.styled(chance, text, style)
    if color != "white" or chance.random() < 0.1:
        text = captions.grounded(chance, text, color)
    return Scene(layers, GROUNDS[color], text)


def _heard(chance: random.Random, name: str) -> str:
    """The name, or without "face": "a cat"."""
    return name.removesuffix(" face") if chance.random() < 0.6 else name


def _without_color(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if rest and first in GROUNDS else name
