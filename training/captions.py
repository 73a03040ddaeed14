"""How things are said: a name with its article, and the phrases that captions are made of. Knows no pictures."""

from __future__ import annotations

import random
import re

OPENINGS = ("an emoji of {}", "a picture of {}", "a drawing of {}", "an icon of {}", "{} emoji", "a photo of {}")
STYLES = ("{}, {} style", "{}, {} style", "{} in {} style", "{}, {}", "{} as {} emoji")
GROUNDS = ("{} on {} background", "{} on {} background", "{} with {} background")
PAIRS = ("{} and {}", "{} and {}", "{} next to {}", "{} beside {}", "{} with {}")
DRESSED = ("{} with {}", "{} with {}", "{} wearing {}")
KIND = ("cute", "happy", "lovely", "nice", "beautiful", "friendly")  # said of what looks as it always does
NUMBERS = {2: ("two", "a pair of"), 3: ("three",), 4: ("four",)}
SMALL, LARGE = ("small", "little", "tiny"), ("big", "large")

_MASS = {"bread", "rice", "sushi", "fire", "water", "snow", "rain", "fog", "ice", "wood", "money", "luggage", "sake"}
_WHOLE = ("people ", "women ", "men ")


def article(name: str) -> str:
    """ "an apple", "a dog face", "a face with smiling eyes"; "cherries" and "bread" as they are."""
    if is_plural(name) or name in _MASS or name.startswith(_WHOLE):
        return name
    return f"{'an' if name[0] in 'aeio' or name.startswith(('umb', 'ups', 'up ', 'una', 'unam')) else 'a'} {name}"


def is_plural(name: str) -> bool:
    last = _halves(name)[0].split()[-1]
    return last.endswith("s") and not last.endswith(("ss", "us", "is")) and last not in ("cactus", "bus")


def plural(name: str) -> str:
    """ "apples", "dog faces", "peaches", "cherries", "leaves", "faces with smiling eyes"."""
    if is_plural(name):
        return name
    head, rest = _halves(name)
    if head.endswith(("s", "x", "z", "ch", "sh")):
        return f"{head}es{rest}"
    if head.endswith("y") and head[-2:-1] not in tuple("aeiou"):
        return f"{head[:-1]}ies{rest}"
    if head.endswith(("leaf", "wolf")):
        return f"{head[:-1]}ves{rest}"
    if head.split()[-1] in ("man", "woman"):
        return f"{head[:-2]}en{rest}"
    return f"{head}s{rest}"


def _halves(name: str) -> tuple[str, str]:
    """What the name is of, and the rest: "face", " with smiling eyes"."""
    head = re.split(r" (?=(?:with|without|of|in|on|for|behind) )", name, maxsplit=1)[0]
    return head, name[len(head) :]


def opened(chance: random.Random, text: str) -> str:
    """Mostly the bare text."""
    return chance.choice(OPENINGS).format(text) if chance.random() < 0.12 else text


def styled(chance: random.Random, text: str, style: str) -> str:
    if chance.random() < 0.1:
        head, _, rest = text.partition(" ")
        return f"a {style} {rest}" if head in ("a", "an") else f"{style} {text}"
    return chance.choice(STYLES).format(text, style)


def grounded(chance: random.Random, text: str, color: str) -> str:
    if chance.random() < 0.2:
        return f"{text} on {color}"
    return chance.choice(GROUNDS).format(text, article(color))
