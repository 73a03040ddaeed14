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
        self.loaded: Model | None = None

    def open(self, model: Model) -> StableDiffusion:
        """The same object for the same model; raises ModelNotFoundError, CheckpointError or UnsupportedError."""
        if model not in self._opened:
            self._opened[model] = self._opener(model)
        return self._opened[model]

    def use(self, model: Model) -> StableDiffusion:
        """The model with its weights, for which those of the one before are let go."""
        sd = self.open(model)
        if self.loaded != model:
            if self.loaded is not None:
                self.open(self.loaded).unload()
            self.loaded = None
            sd.load()
            self.loaded = model
        return sd

    def resolve(self, request: Request) -> Resolved:
        """What the model that the request asks for would render."""
        return self.open(request.wanted_model).resolve(request.for_model(Model()))
