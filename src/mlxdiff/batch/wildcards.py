"""Templates to prompts: what `--wildcards DIR` draws from the seed of a picture, and every combination.

What is drawn depends on the seed, the template and the files that it names, and on nothing else: the same line with the
same seed gives the same prompt, wherever it stands.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, permutations, product
from random import Random

from ..errors import RequestError
from ..request import MAX_IMAGES, Request
from .templates import Choice, Option, Part, Parts, Range, Wildcard, is_template, parse
from .wildcard_files import Lines, WildcardFiles

MAX_TEXT = 2**16  # characters of a prompt
MAX_DRAWS = 10_000  # for one prompt: wildcards that name each other may double at every level
MAX_TOTAL = 10**8  # characters of all combinations
_ENOUGH = 10**30  # combinations are counted up to here: files that name each other square their number
_MANY = 500  # options of which several are taken: with more there are over MAX_IMAGES combinations
TEXTS = ("prompt", "negative_prompt", "hires_prompt", "hires_negative_prompt")


class Wildcards:
    """The templates of a run. `every`: all combinations instead of one that is drawn; `literal` are no templates."""

    def __init__(self, files: WildcardFiles, *, every: bool = False, literal: Collection[str] = ()) -> None:
        self._files, self.every, self._literal = files, every, frozenset(literal)
        self._counts: dict[str, int] = {}

    def without(self, request: Request, given: Collection[str]) -> Wildcards:
        """These, but for the texts of a picture's request that were not `given` by name: they have been drawn."""
        held = {name: getattr(request, name) for name in TEXTS if name not in given}
        literal = [text for text in held.values() if isinstance(text, str)]
        return Wildcards(self._files, every=self.every, literal=literal)

    def _is_template(self, text: str) -> bool:
        return text not in self._literal and is_template(text)

    def concern(self, request: Request) -> bool:
        """Whether one of the request's prompts is a template."""
        return any(map(self._is_template, request.prompts)) or bool(self.concern_besides(request))

    def concern_besides(self, request: Request) -> list[str]:
        """The settings beside the prompt that are templates."""
        values = {name: getattr(request, name) for name in TEXTS[1:]}
        return [name for name, text in values.items() if text is not None and self._is_template(text)]

    def drawn(self, request: Request) -> Request:
        """A request of one image, which has a seed, with its prompts drawn; raises RequestError."""
        values = {name: getattr(request, name) for name in TEXTS}
        values["prompt"] = request.prompts[0]
        found = {
            name: self.draw(text, f"{request.image_names[0]}\0{name}")
            for name, text in values.items()
            if text is not None and self._is_template(text)
        }
        if found.get("prompt") == "":
            raise RequestError("nothing is left of the prompt.", "Give it words beside the braces.")
        return request.replaced(**{"prompt": values["prompt"], **found})

    def drawn_all(self, request: Request) -> Request:
        """A request of all its images, each with a prompt that is drawn from its own seed."""
        prompts = tuple(self.drawn(request.single(i)).prompt for i in range(request.batch_size))
        places = request.batch_places
        return request.replaced(
            prompt=prompts,
            seed=request.seeds,
            n_images=1,
            batch_index=places if any(places) else None,
        )

    def draw(self, text: str, seed: str) -> str:
        """The text with everything drawn, from a seed of any text; one that is no template as it is."""
        if not self._is_template(text):
            return text
        with _not_too_deep():
            return _Draw(self._files, Random(f"{seed}\0{text}")).text(self._parsed(text)).strip()

    def combinations(self, request: Request) -> list[Request]:
        """Requests of every combination of the prompts, one for each negative prompt; seeds are counted through.

        Raises RequestError where these are more than MAX_IMAGES pictures.
        """
        others = [name for name in self.concern_besides(request) if name != "negative_prompt"]
        if others:
            raise RequestError(
                f"{others[0]} has braces or wildcards, which are not combined.", "Leave --wildcards-all out to draw it."
            )
        negative = request.negative_prompt
        prompts = request.prompt if isinstance(request.prompt, tuple) else (request.prompt,)
        n_images = request.n_images * sum(map(self.count, prompts))
        if negative is not None:
            n_images *= self.count(negative)
        if n_images > MAX_IMAGES:
            many = f"{n_images:,}" if n_images < 10**15 else "over 10^15"
            raise RequestError(
                f"it has at least {many} combinations, and at most {MAX_IMAGES:,} are rendered.",
                "Leave --wildcards-all out to draw some of them, with --n-images, or shorten the lists.",
            )
        texts = tuple(dict.fromkeys(found for text in prompts for found in self._all(text)))
        texts = tuple(text for text in texts if text) or ("",)
        negatives = (None,) if negative is None else tuple(dict.fromkeys(self._all(negative)))
        found, seed = [], request.seed
        for text in negatives:
            found.append(request.replaced(prompt=texts, negative_prompt=text, seed=seed))
            seed = seed + len(texts) * request.n_images if isinstance(seed, int) else seed
        return found

    def count(self, text: str) -> int:
        """How many combinations a text has, or at least has; those that read alike are counted each."""
        with _not_too_deep():
            return self._count(self._parsed(text)) if self._is_template(text) else 1

    def _parsed(self, text: str) -> Parts:
        parts = parse(text)
        self._files.check(text)
        return parts

    def _count(self, parts: Parts) -> int:
        found = 1
        for part in parts:
            found = min(found * self._count_of(part), _ENOUGH)
        return found

    def _count_of(self, part: Part) -> int:
        if isinstance(part, str):
            return 1
        if isinstance(part, Range):
            return part.high - part.low + 1
        if isinstance(part, Wildcard):
            if part.name not in self._counts:
                self._counts[part.name] = self._count_lines(self._files.options(part.name))
            return self._counts[part.name]
        options = _possible(_options(part, self._files))
        low, high = min(part.low, len(options)), min(part.high, len(options))
        if low <= 1 and high == 1:
            return sum(self._count(option.parts) for option in options) + (low == 0)
        if len(options) > _MANY:
            return len(options) * (len(options) - 1)
        # Polynomial whose coefficient k sums the products of all k of the counts.
        ways = [1]
        for option in options:
            count = self._count(option.parts)
            ways = [a + b * count for a, b in zip([*ways, 0], [0, *ways], strict=True)][: high + 1]
        return min(sum(math.factorial(k) * ways[k] for k in range(low, high + 1)), _ENOUGH)

    def _count_lines(self, lines: Lines) -> int:
        """Of the lines of a wildcard; once there are too many, each further one counts as one."""
        found = 0
        for i, option in enumerate(lines):
            found += self._count(option.parts)
            if found > MAX_IMAGES:
                return found + len(lines) - i - 1
        return found

    def _all(self, text: str) -> list[str]:
        if not self._is_template(text):
            return [text]
        found, total = [], 0
        with _not_too_deep():
            for one in self._texts(self._parsed(text)):
                total += len(one)
                if len(one) > MAX_TEXT or total > MAX_TOTAL:
                    raise RequestError("its combinations are too long together.", "Shorten the lists.")
                found.append(one.strip())
        return found

    def _texts(self, parts: Parts) -> Iterator[str]:
        for found in product(*(list(self._texts_of(part)) for part in parts)):
            yield "".join(found)

    def _texts_of(self, part: Part) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Range):
            yield from map(part.show, range(part.low, part.high + 1))
        elif isinstance(part, Wildcard):
            for option in self._files.options(part.name):
                yield from self._texts(option.parts)
        else:
            options = [list(self._texts(option.parts)) for option in _possible(_options(part, self._files))]
            for k in range(min(part.low, len(options)), min(part.high, len(options)) + 1):
                for chosen in permutations(options, k):
                    yield from map(part.joiner.join, product(*chosen))


@contextmanager
def _not_too_deep() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise RequestError("braces and wildcards are nested too deeply.", "Use fewer in each other.") from None


class _Draw:
    """One prompt that is drawn."""

    def __init__(self, files: WildcardFiles, random: Random) -> None:
        self._files, self._random = files, random
        self._draws = 0

    def text(self, parts: Parts) -> str:
        found = "".join(self._one(part) for part in parts)
        if len(found) > MAX_TEXT:
            raise RequestError(f"what is drawn is longer than {MAX_TEXT} characters.", "Shorten the wildcards' lines.")
        return found

    def _one(self, part: Part) -> str:
        if isinstance(part, str):
            return part
        self._draws += 1
        if self._draws > MAX_DRAWS:
            raise RequestError(f"it takes more than {MAX_DRAWS} draws.", "See which wildcards name each other.")
        if isinstance(part, Range):
            return part.show(part.low + self._below(part.high - part.low + 1))
        if isinstance(part, Wildcard):
            return self.text(self._of(self._files.options(part.name), 1)[0].parts)
        options = _possible(_options(part, self._files))
        low, high = min(part.low, len(options)), min(part.high, len(options))
        n = low + self._below(high - low + 1) if high > low else low
        return part.joiner.join(self.text(option.parts) for option in self._of(options, n))

    def _below(self, n: int) -> int:
        # Random.random() is the one method whose numbers Python promises to keep.
        return min(int(self._random.random() * n), n - 1)

    def _of(self, options: Sequence[Option], n: int) -> list[Option]:
        """n different ones, by weight, in the order in which they are drawn."""
        if n == 0:
            return []
        if n == 1:
            sums = _sums(options)
            at = bisect_right(sums, self._random.random() * sums[-1])
            return [options[min(at, len(options) - 1)]]
        # The n smallest of waiting times with these rates are a draw without putting back (Efraimidis, Spirakis 2006).
        waits = [-math.log(1 - self._random.random()) / weight for weight in _weights(options)]
        return [options[i] for i in heapq.nsmallest(n, range(len(options)), key=waits.__getitem__)]


def _options(choice: Choice, files: WildcardFiles) -> Sequence[Option]:
    """The options; of one that is a wildcard alone, such as `{2$$__colors__}`, its lines."""
    if len(choice.options) == 1 and len(choice.options[0].parts) == 1:
        part = choice.options[0].parts[0]
        if isinstance(part, Wildcard):
            return files.options(part.name)
    return choice.options


def _possible(options: Sequence[Option]) -> Sequence[Option]:
    if isinstance(options, Lines):
        return options
    found = [option for option in options if option.weight > 0]
    if not found:
        raise RequestError("all weights of a choice are 0.", "Give one of them a larger weight.")
    return found


def _weights(options: Sequence[Option]) -> list[float]:
    return options.weights if isinstance(options, Lines) else [option.weight for option in options]


def _sums(options: Sequence[Option]) -> list[float]:
    return options.sums if isinstance(options, Lines) else list(accumulate(_weights(options)))
