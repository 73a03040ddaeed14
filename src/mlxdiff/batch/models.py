"""The models of a run: each opened once, reading configs alone, and the weights of one at a time in memory."""

from __future__ import annotations

from collections.abc import Callable

from ..pipeline import StableDiffusion
from ..request import Model, Request, Resolved


class Models:
    """`opener` makes a StableDiffusion of a Model."""

    def __init__(self, opener: Callable[[Model], StableDiffusion] = StableDiffusion.open) -> None:
        self._opener = opener
        self._opened: dict[Model, StableDiffusion] = {}
        self._loaded: StableDiffusion | None = None

    def open(self, model: Model) -> StableDiffusion:
        """The same object for the same model, in whatever words; reads configs alone.

        Raises ModelNotFoundError, CheckpointError or UnsupportedError.
        """
        if model not in self._opened:
            made = self._opener(model)
            same = (sd for sd in self._opened.values() if sd.model == made.model)
            self._opened[model] = next(same, made)
        return self._opened[model]

    def replaces(self, model: Model) -> bool:
        """Whether `use` of this model lets go of another one's weights."""
        return self._loaded is not None and self._loaded is not self.open(model)

    def use(self, model: Model) -> StableDiffusion:
        """The model with its weights, for which those of the one before are let go."""
        sd = self.open(model)
        if self._loaded is not sd:
            if self._loaded is not None:
                self._loaded.unload()
            self._loaded = None
            try:
                sd.load()
            except BaseException:  # a damaged file may be another one when it is asked for again
                self._opened = {model: one for model, one in self._opened.items() if one is not sd}
                raise
            self._loaded = sd
        return sd

    def resolve(self, request: Request) -> Resolved:
        """What the model that the request asks for would render."""
        return self.open(request.wanted_model).resolve(request.for_model(Model()))
