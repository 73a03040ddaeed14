"""A request: all settings of one call of the denoising loop, checked together, and written as canonical JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, TypeVar

from .. import catalogue
from ..errors import RequestError
from .declarations import MAX_DIGITS, Kind, declared, setting
from .from_pictures import FromPictures
from .guidance import GuidanceSettings
from .kinds import MAX_SEED, SAMPLERS, BatchPlace, Hashes
from .model import Model, ModelSettings, NetworkSettings
from .noise import NoiseSettings
from .prompts import PromptSettings
from .sampling import SamplingSettings
from .stages import StageSettings

SAMPLER_PAIRS = (("sampler", "schedule"), ("hires_sampler", "hires_schedule"))  # older names say both at once
RECORDED_SYNTAX = "plain"  # of requests that were recorded before there was a choice

Same = TypeVar("Same", bound="Request")


@dataclass(frozen=True)
class Request(  # from the last group to the first, because fields of later bases come first
    NetworkSettings,
    StageSettings,
    GuidanceSettings,
    NoiseSettings,
    FromPictures,
    ModelSettings,
    SamplingSettings,
    PromptSettings,
):
    """One call of the denoising loop: `len(prompt) * n_images` pictures of one size.

    Each field is a setting; docs/settings.md lists them. None means unset: the checkpoint's default, or off. Raises
    RequestError for values out of range.
    """

    hashes: Any = setting(Hashes(), "Contents of the files named here.", scope="record", vary=False)

    def __post_init__(self) -> None:
        self._split_sampler()
        for declaration in declared(type(self)):
            value = getattr(self, declaration.name)
            if value is None and declaration.default is None:
                continue
            checked = declaration.kind.check(declaration.name, value)
            if checked is not value:
                object.__setattr__(self, declaration.name, checked)
        self._check_interval()
        self._check_counts()

    def replaced(self: Same, **values: Any) -> Same:
        """The request with these fields in place of its own, as `dataclasses.replace` has it, in a tenth of the time:
        what stays has been checked. Raises RequestError for values out of range.
        """
        kinds, made = _kinds(type(self)), object.__new__(type(self))
        own, held = made.__dict__, self.__dict__
        own.update(held)
        for name in _COMPUTED:
            own.pop(name, None)
        for name, value in values.items():
            if name not in kinds:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            own[name] = value
        made._split_sampler()
        for name in sorted(values, key=_places(type(self)).__getitem__):  # of two that are wrong always the same one
            kind, default = kinds[name]
            value = own[name]
            if kind is not None and (value is not None or default is not None):
                own[name] = kind.check(name, value)
        made._check_interval()
        made._check_counts()
        return made

    def _check_counts(self) -> None:
        """Raises RequestError where there is not one seed, or one place in a batch, for each image."""
        if isinstance(self.seed, tuple) and len(self.seed) != self.batch_size:
            raise RequestError(
                f"There are {len(self.seed)} seeds for {self.batch_size} images.",
                "Give one seed, or one for each image.",
            )
        places = len(self.batch_index) if isinstance(self.batch_index, tuple) else 1
        if self.batch_index is not None and places != self.batch_size:
            raise RequestError(
                f"There are {self.batch_size} images and {places} places in a batch.", "Give one for each image."
            )

    def _split_sampler(self) -> None:
        """Older names say both at once: "DPM++ 2M Karras"."""
        for sampler, kind in SAMPLER_PAIRS:
            name = getattr(self, sampler)
            if isinstance(name, str) and name not in SAMPLERS and getattr(self, kind) is None:
                row, schedule = catalogue.split_sampler(name)
                object.__setattr__(self, sampler, row.name)
                if schedule is not None:
                    object.__setattr__(self, kind, schedule.name)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """One prompt an image: each text `n_images` times, in the order of the list."""
        if self.n_images == 1:
            return self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)
        texts = self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)
        return tuple(text for text in texts for _ in range(self.n_images))

    @property
    def batch_size(self) -> int:
        return self.n_images * (len(self.prompt) if isinstance(self.prompt, tuple) else 1)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """One seed an image; needs `seed` to be set."""
        if self.seed is None:
            raise RequestError("The request has no seed yet.", "Set one, or let StableDiffusion.resolve draw one.")
        if isinstance(self.seed, tuple):
            return self.seed
        shared = self.n_images if self.compat == "comfyui" else 1  # images that ComfyUI draws from one seed
        return tuple((self.seed + i // shared) % (MAX_SEED + 1) for i in range(self.batch_size))

    @cached_property
    def batch_places(self) -> tuple[BatchPlace | None, ...]:
        """Each image's place in a batch that one seed is drawn for, which ComfyUI's have; None for an image alone."""
        if isinstance(self.batch_index, tuple):
            return self.batch_index
        if self.batch_index is not None:
            return (self.batch_index,)
        if self.compat != "comfyui" or self.n_images == 1 or isinstance(self.seed, tuple):
            return (None,) * self.batch_size
        return tuple(BatchPlace(i % self.n_images, self.n_images) for i in range(self.batch_size))

    @property
    def image_names(self) -> tuple[str, ...]:
        """What tells the images apart: their seeds, and their places where they share one."""
        pairs = zip(self.seeds, self.batch_places, strict=True)
        return tuple(f"{seed}" if place is None else f"{seed}-{place.index}" for seed, place in pairs)

    @property
    def wanted_model(self) -> Model:
        """The model that this asks for; what is loaded may be another, and then that is what is recorded."""
        values = {item.name: getattr(self, item.name) for item in fields(Model) if item.name != "reference"}
        return Model(self.model, **values)

    def for_model(self, model: Model) -> Request:
        """The request with another model's fields."""
        values = {item.name: getattr(model, item.name) for item in fields(Model) if item.name != "reference"}
        return self.replaced(model=model.reference, **values)

    def single(self, index: int) -> Any:
        """The request that renders image `index` of this one alone."""
        one = isinstance(self.prompt, str) and isinstance(self.seed, int) and not isinstance(self.batch_index, tuple)
        if one and self.n_images == 1:
            return self
        place = self.batch_places[index]
        return self.replaced(prompt=self.prompts[index], seed=self.seeds[index], n_images=1, batch_index=place)

    def singles(self) -> Iterator[Any]:
        """The requests that render each image alone."""
        return (self.single(index) for index in range(self.batch_size))

    def values(self) -> dict[str, Any]:
        """Every setting that has a value, by name, as JSON holds it."""
        held = self.__dict__
        kinds = ((name, kind) for name, (kind, _) in _kinds(type(self)).items() if held[name] is not None)
        return {name: kind.to_json(held[name]) for name, kind in kinds if kind is not None}

    def neutral_values(self) -> dict[str, Any]:
        """Of the settings that are unset, those with a value that changes nothing: a picture's text leaves it out."""
        unset = (item for item in declared(Request) if getattr(self, item.name) is None)
        return {item.name: item.neutral for item in unset if item.neutral is not None}

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, nothing that is unset, ASCII only."""
        return json.dumps(self.values(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Reads `to_json`; raises RequestError for anything that is not a request."""
        return cls.from_dict(_object_in(text))

    @classmethod
    def recorded(cls, text: str) -> Request:
        """Reads the JSON of a picture or of latents: as `from_json`, but older ones have plain prompts."""
        return cls.from_dict(as_recorded(_object_in(text)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """A request of settings by name; raises RequestError for a name that is no setting."""
        check_names(values)
        return cls(**values)


_COMPUTED = tuple(name for name, held in vars(Request).items() if isinstance(held, cached_property))


@cache
def _kinds(of: type[Request]) -> dict[str, tuple[Kind | None, Any]]:
    """The fields by name: the kind and the default of one that is a setting, else None twice."""
    settings = {item.name: (item.kind, item.default) for item in declared(of)}
    return {item.name: settings.get(item.name, (None, None)) for item in fields(of)}


@cache
def _places(of: type[Request]) -> dict[str, int]:
    """The fields by name, counted in their order."""
    return {item.name: place for place, item in enumerate(fields(of))}


def check_names(values: Mapping[str, Any]) -> None:
    """Raises RequestError for a name that is no setting."""
    known = [item.name for item in declared(Request)]
    unknown = sorted(str(name) for name in set(values) - set(known))
    if unknown:
        raise RequestError(f"A request has no field {unknown[0]!r}.", f"The fields are {', '.join(sorted(known))}.")


def as_recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file recorded them: prompts are plain where it does not say how to read them."""
    return {**values} if values.get("prompt_syntax") is not None else {**values, "prompt_syntax": RECORDED_SYNTAX}


def _object_in(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"The request is not JSON ({type(error).__name__}).", "Check where the text comes from."
        ) from None
    if not isinstance(values, dict):
        raise RequestError("The request is not a JSON object.", "Check where the text comes from.")
    return values


def _whole_number(digits: str) -> int:
    """Python reads long numbers in quadratic time, and no field takes one."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
