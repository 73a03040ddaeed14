"""What is drawn and what is said of it: a scene is a few pictures on a ground, and a caption that is true of them.

Knows no pixels: a picture is a row of the catalogue. canvas.py draws scenes.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

import captions
from catalogue import Catalogue
from colors import GROUNDS, TINTS

AT_MOST = 4  # layers of a scene
HELD_OUT = 40  # one of so many (name, style, background) is never trained on
HEADS = (
    *("dog face", "cat face", "mouse face", "rabbit face", "cow face", "pig face", "tiger face", "monkey face"),
    *("hamster", "bear", "polar bear", "koala", "panda", "fox", "lion", "frog", "wolf", "robot", "alien", "ghost"),
    *("jack o lantern", "slightly smiling face", "grinning face", "full moon face"),
)
EYES = ("sunglasses", "glasses")
HATS = ("top hat", "crown", "graduation cap", "womans hat", "rescue workers helmet", "billed cap")


@dataclass(frozen=True)
class Layer:
    """Where a picture stands: centre in [-1, 1], its side as a fraction of the ground's, degrees, and a new color."""

    row: int
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    angle: float = 0.0
    tint: str | None = None


@dataclass(frozen=True)
class Scene:
    layers: tuple[Layer, ...]
    ground: tuple[int, int, int]
    caption: str


def held_out(name: str, style: str, ground: str) -> bool:
    """Whether a combination is kept for evaluate.py."""
    return zlib.crc32(f"{name}|{style}|{ground}".encode()) % HELD_OUT == 0


def scene(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A scene of a random kind; a single picture where the catalogue lacks what the kind needs."""
    kinds = (single, free_word, recolored, moved, pair, several, dressed)
    (kind,) = chance.choices(kinds, (38, 22, 7, 8, 10, 11, 4))
    return kind(catalogue, chance) or single(catalogue, chance)


def single(catalogue: Catalogue, chance: random.Random) -> Scene:
    """A picture as it is, by its name."""
    name = chance.choice(list(catalogue.by_name))
    return _alone(catalogue, chance, name, name)


def free_word(catalogue: Catalogue, chance: random.Random) -> Scene | None:
    """A picture as it is, by a word that means it."""
    if not catalogue.meanings:
        return None
    word, name = catalogue.word(chance)
    return _alone(catalogue, chance, name, word)


def recolored(catalogue: Catalogue, chance: random.Random) -> Scene | None:
    """A picture in another color than its own: "a blue apple"."""
    if not catalogue.tinted:
        return None
    row = catalogue.rows[chance.choice(catalogue.tinted)]
    named = chance.random() < 0.5
    style = catalogue.style(chance, row.name, named)
    i = catalogue.by_name[row.name][style]
    own = catalogue.rows[i].color
    if own not in TINTS:
        return None
    tint = chance.choice(list(TINTS))
    said = _without_color(_heard(catalogue, chance, row.name))
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
    said = heard = _heard(catalogue, chance, name)
    if angle or not place or chance.random() < 0.7:
        said = f"tilted {heard}" if angle else f"{chance.choice(captions.SMALL)} {heard}"
    layer = Layer(catalogue.by_name[name][style], x, y, scale, angle)
    return _finish(catalogue, chance, (layer,), f"{captions.article(said)}{place}", style if named else None)


def pair(catalogue: Catalogue, chance: random.Random) -> Scene | None:
    """Two things beside each other, in one style, in the caption's order from left to right."""
    if len(catalogue.things) < 2:
        return None
    names = chance.sample(catalogue.things, 2)
    named = chance.random() < 0.5
    style = catalogue.style(chance, names[0], named)
    if style not in catalogue.by_name[names[1]]:
        return None
    side, scale = chance.uniform(0.46, 0.5), chance.uniform(0.46, 0.52)
    layers = [
        Layer(catalogue.by_name[name][style], x, chance.uniform(-0.06, 0.06), scale)
        for name, x in zip(names, (-side, side), strict=True)
    ]
    said = chance.choice(captions.PAIRS).format(*(captions.article(_heard(catalogue, chance, name)) for name in names))
    return _finish(catalogue, chance, tuple(layers), said, style if named else None)


def several(catalogue: Catalogue, chance: random.Random) -> Scene | None:
    """Two to four of the same: "three apples"."""
    if not catalogue.things:
        return None
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
    heard = _heard(catalogue, chance, name)
    said = f"{chance.choice(captions.NUMBERS[number])} {captions.plural(heard)}"
    return _finish(catalogue, chance, tuple(layers), said, style if named else None)


def dressed(catalogue: Catalogue, chance: random.Random) -> Scene | None:
    """A face with glasses or a hat on it: "a cat with sunglasses"."""
    heads = [name for name in HEADS if name in catalogue.by_name]
    worn = [name for name in (*EYES, *HATS) if name in catalogue.by_name]
    if not heads or not worn:
        return None
    head = chance.choice(heads)
    on_eyes = [name for name in worn if name in EYES]
    thing = chance.choice(on_eyes if on_eyes and chance.random() < 0.6 else worn)
    named = chance.random() < 0.4
    style = catalogue.style(chance, head, named)
    if style not in catalogue.by_name[thing]:
        return None
    below, above = catalogue.by_name[head][style], catalogue.by_name[thing][style]
    if thing in EYES:
        layers = (Layer(below), Layer(above, 0.0, chance.uniform(-0.08, 0.0), chance.uniform(0.62, 0.7)))
    else:
        layers = (
            Layer(below, 0.0, 0.22, 0.78),
            Layer(above, 0.0, chance.uniform(-0.68, -0.6), chance.uniform(0.48, 0.56)),
        )
    said = (captions.article(_heard(catalogue, chance, head)), thing if thing in EYES else captions.article(thing))
    text = chance.choice(captions.DRESSED).format(*said)
    return _finish(catalogue, chance, layers, text, style if named else None)


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
    elif said == name and row.tags and chance.random() < 0.08:
        said = f"{name}, {chance.choice(row.tags)}"
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


def _heard(catalogue: Catalogue, chance: random.Random, name: str) -> str:
    """The name, or an ordinary word for it, or without "face": "a puppy", "a dog"."""
    if name in catalogue.called and chance.random() < 0.4:
        return chance.choice(catalogue.called[name])
    return name.removesuffix(" face") if chance.random() < 0.6 else name


def _without_color(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if rest and first in GROUNDS else name
