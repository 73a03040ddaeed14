"""Resolves the lines of a prompt file: those that differ in prompt and seed alone, once.

What a model makes of a request depends on neither, but for prompts that may name LoRAs (`<lora:...>`), also those of a
second pass: which files they name is known once they are resolved. A file of ten thousand lines has a handful of
settings, and resolving takes as long as reading a hundred lines.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import MlxdiffError
from ..named_files import named_files
from ..request import Request, Resolved

MOST = 1000  # kinds of requests that are kept

Files = tuple[tuple[str, str], ...]


class Resolving:
    """`resolve` for many requests. Files that a request names are looked at each time: a stream may run for days."""

    def __init__(self, resolve: Callable[[Request], Resolved]) -> None:
        self._resolve = resolve
        self._known: dict[Request, tuple[Files, Resolved]] = {}

    def __call__(self, request: Request) -> Resolved:
        """As `Models.resolve`, but that warnings about what was resolved before are not given again."""
        prompt, seed = request.prompt, request.seed
        if not isinstance(prompt, str) or not isinstance(seed, int) or "<" in f"{prompt}{request.hires_prompt}":
            return self._resolve(request)
        alike = request.replaced(prompt="", seed=0)
        try:
            files = tuple((file.name, file.digest()) for file in named_files(request, scope="picture"))
        except MlxdiffError:  # which resolving says in its own words
            return self._resolve(request)
        found = self._known.get(alike)
        if found is None or found[0] != files:
            if len(self._known) >= MOST:
                self._known.clear()
            found = self._known[alike] = files, self._resolve(request)
        return found[1].replaced(prompt=prompt, seed=seed)
