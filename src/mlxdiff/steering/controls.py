"""The controls of a request: their networks loaded once, their pictures seen once a run, and what they add to a call.

A ControlNet runs beside the backbone at every step. A T2I-Adapter sees its picture once, and adds the same each time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np

from .. import hub
from ..conditioning import Conditioning, concatenate
from ..diffusion.guidance import bounds_of
from ..diffusion.schedule import Schedule
from ..errors import MlxdiffWarning, RequestError
from ..families.control import ControlSource, load_control, read_control
from ..hashing import content_hash
from ..models.backbone import NO_RESIDUALS, Residuals
from ..models.controlnet import ControlNet
from ..models.t2i_adapter import T2IAdapter, T2IAdapterConfig
from ..networks import Networks
from ..recent import Recent
from ..request import Request, Resolved
from ..request.controls import TYPES, Control
from .additions import WITHOUT_PROMPT, Steer
from .control_pictures import Look, look_at, picture_for

KEPT = 16  # files of which it is known what they are
MOST_SEEN = 2**26  # bytes of what networks made of pictures; one at 1024x1024 pixels takes 21 MB in fp32


class Controls:
    """The controls of one model's requests."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._sources: dict[str, ControlSource] = {}
        self._seen: Recent[Any] = Recent(MOST_SEEN, _nbytes)

    def check(self, request: Request) -> None:
        """Reads what the networks of a request are, no weight. Raises RequestError for one that does not fit."""
        for control in request.control or ():
            self._source(control)

    def map(self, request: Resolved) -> None:
        """Finds and checks the networks of a request, so that their size is known; no weight is evaluated.

        Those of requests before are let go where memory is scarce. Raises RequestError for one that does not fit.
        """
        used = {self._source(control)[0] for control in request.control or ()}
        for control in request.control or ():
            key, source = self._source(control)
            self._networks.map_beside(key, lambda source=source: self._loaded(source))
        self._networks.keep_beside(used)

    def of(self, request: Resolved, levels: Schedule, size: tuple[int, int]) -> tuple[Steer, ...]:
        """What the controls of a request add to each call of a run at these levels, (height, width) pixels large."""
        found: list[Steer] = []
        for _, group in groupby(request.control or (), _together):
            for key, controls in self._by_network(list(group)):
                network = self._networks.beside(key, controls[0].ref)
                interval = _interval(controls[0], levels)
                if isinstance(network, T2IAdapter):
                    found += [self._adapter(key, network, control, interval, request, size) for control in controls]
                else:
                    looks = [look_at(control, request, size, self._factor) for control in controls]
                    found.append(self._controlnet(key, network, controls, looks, interval, levels))
        return tuple(found)

    def _by_network(self, controls: Sequence[Control]) -> list[tuple[str, list[Control]]]:
        """Pictures for one ControlNet-Union are seen in one call; any other network sees one at a time."""
        found: list[tuple[str, list[Control]]] = []
        for control in controls:
            key, source = self._source(control)
            is_union = getattr(source.config, "union", None) is not None
            same = next((held for name, held in found if is_union and name == key), None)
            if same is None:
                found.append((key, [control]))
            else:
                same.append(control)
        return found

    def _source(self, control: Control) -> tuple[str, ControlSource]:
        path = hub.find_part(control.ref, "control")
        key = f"control {path} {content_hash(path)}"
        if key not in self._sources:
            source = read_control(control.ref, path, self._networks.checkpoint)
            # Made anew, since any thread may resolve a request.
            self._sources = {**dict(list(self._sources.items())[1 - KEPT :]), key: source}
        source = self._sources[key]
        check_type(control, source)
        _check_blocks(control, source)
        return key, source

    def _loaded(self, source: ControlSource) -> tuple[Any, Iterable[Any]]:
        network = load_control(source, self._networks.dtype, self._networks.bits)
        return network, (network.network if isinstance(network, ControlNet) else network,)

    @property
    def _factor(self) -> int:
        return self._networks.checkpoint.scale_factor

    def _adapter(
        self,
        key: str,
        network: T2IAdapter,
        control: Control,
        interval: tuple[float, float],
        request: Resolved,
        size: tuple[int, int],
    ) -> Steer:
        config = network.config
        # A side that the adapter's cells do not divide is made a little longer, as the UNet rounds its halves up.
        size = tuple(-(-side // config.unshuffle) * config.unshuffle for side in size)  # type: ignore[assignment]

        look = look_at(control, request, size, self._factor)

        def see() -> list[mx.array]:
            maps = network(_channels(picture_for(control, look), config.picture_channels, control.ref))
            mx.eval(maps)
            return maps

        maps = self._seen.get((key, look), see)
        return _Adapter([x * factor for x, factor in zip(maps, control.factors(len(maps)), strict=True)], interval)

    def _controlnet(
        self,
        key: str,
        network: ControlNet,
        controls: Sequence[Control],
        looks: Sequence[Look],
        interval: tuple[float, float],
        levels: Schedule,
    ) -> Steer:
        types = [control.type_number or 0 for control in controls]
        scales = [control.scale for control in controls]
        fused = tuple(scales) if len(controls) > 1 else ()

        def see() -> mx.array:
            channels = network.config.picture_channels
            pairs = zip(controls, looks, strict=True)
            pictures = [_channels(picture_for(control, look), channels, control.ref) for control, look in pairs]
            hint = network.hint(pictures, types, scales)
            mx.eval(hint)
            return hint

        hint = self._seen.get((key, fused, *types, *looks), see)
        guess = controls[0].guess or network.config.pools
        alone = controls[0] if len(controls) == 1 else replace(controls[0], scale=1.0)
        scaled = network.scales(alone.factors(network.n_maps), guess=guess)
        return _Beside(network, hint, scaled, interval, guess, tuple(types), levels.timesteps)


@dataclass(frozen=True, eq=False)
class _Adapter:
    """A T2I-Adapter's feature maps, the same at every step."""

    maps: list[mx.array]
    interval: tuple[float, float]

    def is_active(self, sigma: float) -> bool:
        return self.interval[0] < sigma <= self.interval[1]

    def prepare(self, branches: Sequence[tuple[str, int]], conditioning: Conditioning) -> None:
        del branches, conditioning

    def __call__(self, latents: mx.array, timestep: float, prepared: None) -> Residuals:
        del latents, timestep, prepared
        return Residuals(adapter=self.maps)


@dataclass(frozen=True, eq=False)
class _Beside:
    """A ControlNet that runs beside the backbone.

    guess  whether it runs for the prompt's branches alone, and adds nothing to those without it
    """

    network: ControlNet
    hint: mx.array
    scales: mx.array
    interval: tuple[float, float]
    guess: bool
    types: tuple[int, ...]
    timesteps: Sequence[float]

    def is_active(self, sigma: float) -> bool:
        return self.interval[0] < sigma <= self.interval[1]

    def prepare(self, branches: Sequence[tuple[str, int]], conditioning: Conditioning) -> tuple[list[slice | int], Any]:
        """The rows that it sees, between numbers of rows that it does not, and what they alone decide."""
        parts: list[slice | int] = []
        first = 0
        for branch, count in branches:
            parts.append(count if self.guess and branch in WITHOUT_PROMPT else slice(first, first + count))
            first += count
        seen = [_rows(conditioning, part) for part in parts if isinstance(part, slice)]
        prepared = None if not seen else self.network.prepare(concatenate(seen), self.timesteps, self.types)
        return parts, prepared

    def __call__(self, latents: mx.array, timestep: float, prepared: tuple[list[slice | int], Any]) -> Residuals:
        parts, own = prepared
        if own is None:
            return NO_RESIDUALS
        seen = [latents[part] for part in parts if isinstance(part, slice)]
        together = latents if len(seen) == len(parts) else mx.concatenate(seen)
        found = self.network(together, timestep, own, self.hint, self.scales)
        if len(seen) == len(parts):
            return found
        assert found.mid is not None
        return Residuals([_spread(x, parts) for x in found.down], _spread(found.mid, parts))


def check_type(control: Control, source: ControlSource) -> None:
    """Raises RequestError where a ControlNet-Union is not told what it sees, or another network is."""
    union = getattr(source.config, "union", None)
    if union is None:
        if control.type is not None:
            raise RequestError(
                f"The control {control.ref} has the type {control.type}, and is no ControlNet-Union.", "Leave type out."
            )
        return
    if control.type_number is None:
        raise RequestError(
            f"{control.ref} is a ControlNet-Union, and nothing says what it sees in the picture.",
            f"Add ,type=NAME, of {', '.join(TYPES)}.",
        )
    if control.type_number >= union.n_types:
        raise RequestError(
            f"The ControlNet-Union {control.ref} knows {union.n_types} types, and {control.type} is none of them.",
            f"Choose one of {', '.join(name for name, number in TYPES.items() if number < union.n_types)}.",
        )


def _check_blocks(control: Control, source: ControlSource) -> None:
    """Raises RequestError for more factors than there are feature maps, of which some would count nowhere."""
    config = source.config
    n = len(config.outputs) if isinstance(config, T2IAdapterConfig) else len(config.map_channels) + 1
    if len(control.blocks or ()) > n:
        raise RequestError(
            f"The control {control.ref} has {len(control.blocks or ())} blocks, and {n} feature maps.",
            f"Give {n} or fewer.",
        )


def _together(control: Control) -> tuple:
    return control.start, control.end, control.guess, control.blocks


def _interval(control: Control, levels: Schedule) -> tuple[float, float]:
    """The sigmas (low, high] at which the steps begin in which a control acts; as diffusers counts them."""
    sigmas = levels.sigmas
    n = len(sigmas) - 1
    inside = [i for i in range(n) if i / n >= control.start and (i + 1) / n <= control.end]
    if not inside:
        text = f"The control {control.ref} acts in none of {n} steps, from {control.start:g} to {control.end:g}."
        warnings.warn(MlxdiffWarning(text), stacklevel=2)
        return math.inf, math.inf
    return bounds_of(sigmas, inside)


def _channels(picture: np.ndarray, channels: int, name: str) -> mx.array:
    """(1, H, W, channels): a gray picture's, or all three colors."""
    if channels == 1:
        picture = (picture @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]  # ITU-R 601, as Pillow's L
    elif channels != 3:
        raise RequestError(
            f"The control {name} sees pictures of {channels} channels, and a picture has 3.", "Use another control."
        )
    return mx.array(picture)[None]


def _nbytes(arrays: Any) -> int:
    return sum(map(_nbytes, arrays)) if isinstance(arrays, list) else arrays.nbytes


def _rows(conditioning: Conditioning, part: slice) -> Conditioning:
    arrays = (conditioning.context, conditioning.pooled, conditioning.time_ids)
    context, pooled, time_ids = (None if array is None else array[part] for array in arrays)
    assert context is not None
    return Conditioning(context, pooled, time_ids)


def _spread(x: mx.array, parts: Sequence[slice | int]) -> mx.array:
    """The rows of what was seen in their places, and zeros in the others'."""
    found, first = [], 0
    for part in parts:
        if isinstance(part, slice):
            count = part.stop - part.start
            found.append(x[first : first + count])
            first += count
        else:
            found.append(mx.zeros((part, *x.shape[1:]), dtype=x.dtype))
    return mx.concatenate(found)
