"""The UNet as the denoising loop's backbone: what is prepared once a run, step caching, and compiled calls on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..conditioning import Conditioning
from ..errors import UnsupportedError
from ..kernels import graphs
from ..weight_changes import Delta, Live, Survival
from .backbone import Extra, Residuals
from .layers import timestep_embedding
from .transformer import KeysValues
from .unet import UNet2DConditionModel
from .unet_blocks import LevelKeysValues
from .unet_config import UNetConfig
from .unet_down import UNetDown

NOTHING = Extra()

TimeShifts = list[list[mx.array]]


class Calls:
    """The UNet's functions as they are called: compiled on a GPU, once a shape, into fewer kernels.

    A compiled function keeps the weights that it was compiled with. `weights` are those, to be compared with the UNet's
    own: they are held, so that no other array can have their identity.
    """

    def __init__(self, unet: UNet2DConditionModel, compiles: bool) -> None:
        self._network, self._compiles = unet, compiles
        self.called: list[Callable[..., Any]] = []
        self._weights = _leaves(unet) if compiles else []

    def are_current(self) -> bool:
        """Whether the UNet still has the weights of these functions. Arrays changed in place are not noticed."""
        if not self._compiles:
            return True
        leaves = _leaves(self._network)
        return len(leaves) == len(self._weights) and all(a is b for a, b in zip(leaves, self._weights, strict=True))

    @cached_property
    def predict(self) -> Callable[..., mx.array]:
        return self._as_called(self._network.predict)

    @cached_property
    def finest_down(self) -> Callable[..., list[mx.array]]:
        return self._as_called(self._network.finest_down)

    @cached_property
    def coarser_levels(self) -> Callable[..., mx.array]:
        return self._as_called(self._network.coarser_levels)

    @cached_property
    def finest_up(self) -> Callable[..., mx.array]:
        return self._as_called(self._network.finest_up)

    def _as_called(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # On a CPU the compiler runs for longer than a picture takes.
        if not self._compiles:
            return function
        self.called.append(graphs.compiled(function))
        return self.called[-1]


class Prepared:
    """What a run's conditioning and timesteps decide, for a network with a UNet's way down.

    keys_values  of the context, for each level
    inputs       what else `time_shifts` of this network takes, (B, n) each
    """

    def __init__(
        self,
        network: UNetDown,
        conditioning: Conditioning,
        timesteps: Sequence[float],
        **inputs: mx.array | None,
    ) -> None:
        added = {"pooled": conditioning.pooled, "time_ids": conditioning.time_ids, **inputs}
        self.keys_values: list[LevelKeysValues] = network.keys_values(conditioning.context)
        self._network = network
        self._added = {name: array for name, array in added.items() if array is not None}
        # Rows of what a timestep adds: one serves all images, unless each image has something of its own to add.
        self._rows = conditioning.context.shape[0] if self._added else 1
        self._by_timestep: dict[float, TimeShifts] = {}
        if len(timesteps) > 0:
            self._compute(timesteps)

    def time_shifts(self, timestep: float) -> TimeShifts:
        """What a timestep adds inside each resnet block of each level: (1 or B, C) each."""
        timestep = _in_fp32(timestep)
        if timestep not in self._by_timestep:
            self._compute([timestep])
        return self._by_timestep[timestep]

    def _compute(self, timesteps: Sequence[float]) -> None:
        rows, n = self._rows, len(timesteps)
        times = mx.array(list(timesteps), dtype=mx.float32)
        added = {name: mx.tile(array, (n, 1)) for name, array in self._added.items()}
        shifts = self._network.time_shifts(mx.repeat(times, rows), **added)
        for i, timestep in enumerate(timesteps):
            of_this = [[shift[i * rows : (i + 1) * rows] for shift in level] for level in shifts]
            self._by_timestep.setdefault(_in_fp32(timestep), of_this)


class PreparedUNet(Prepared):
    """Of a UNet, with its functions that have the weights of which this was prepared, for UNetBackbone alone."""

    def __init__(
        self,
        calls: Calls,
        network: UNet2DConditionModel,
        conditioning: Conditioning,
        timesteps: Sequence[float],
        **inputs: mx.array | None,
    ) -> None:
        super().__init__(network, conditioning, timesteps, **inputs)
        self.calls = calls
        if conditioning.pictures:
            self.keys_values = network.with_pictures(self.keys_values, _of_pictures(conditioning))


class UNetBackbone:
    """A UNet behind the Backbone protocol (models/backbone.py).

    compiles  whether calls are compiled; None means on a GPU
    reload    what `reload` calls, for a UNet whose adapters can be changed
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        compiles: bool | None = None,
        reload: Callable[..., Survival] | None = None,
    ) -> None:
        self.network = unet
        self._compiles = mx.default_device().type == mx.gpu if compiles is None else compiles
        self._reload = reload
        self._calls: Calls | None = None

    @property
    def config(self) -> UNetConfig:
        return self.network.config

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, in which the output is."""
        return self.network.dtype

    @property
    def weights_nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(array.nbytes for array in _leaves(self.network))

    @property
    def recorded_nbytes(self) -> int:
        """Bytes that the recordings of calls hold (kernels/graphs.py)."""
        return sum(graphs.held(function) for function in self._called)

    def forget_recordings(self) -> None:
        """Lets those bytes go; calls are recorded again when they come again."""
        for function in self._called:
            graphs.forget(function)

    @property
    def _called(self) -> list[Callable[..., Any]]:
        return [] if self._calls is None else self._calls.called

    def prepare(self, conditioning: Conditioning, timesteps: Sequence[float], *, guidance_scale: float) -> PreparedUNet:
        """See Backbone.prepare: the keys and values of the context, and what the timesteps add."""
        if self._calls is None or not self._calls.are_current():
            self._calls = Calls(self.network, self._compiles)
        embedded = self._embed_guidance(guidance_scale, conditioning.context.shape[0])
        return PreparedUNet(self._calls, self.network, conditioning, timesteps, timestep_cond=embedded)

    def __call__(self, latents: mx.array, timestep: float, prepared: PreparedUNet, extra: Extra = NOTHING) -> mx.array:
        """See Backbone.__call__. Raises RequestError where the residuals do not fit."""
        calls, keys_values = prepared.calls, prepared.keys_values
        sample, shifts = latents.astype(self.dtype), prepared.time_shifts(timestep)
        merging, residuals = float(extra.token_merging), self._in_dtype(extra.residuals)
        if extra.step_cache is None:
            return calls.predict(sample, shifts, keys_values, merging, residuals, extra.perturbed)
        maps = calls.finest_down(sample, shifts, keys_values, merging, residuals)
        x = extra.step_cache(
            lambda: calls.coarser_levels(maps, shifts, keys_values, merging, residuals, extra.perturbed),
            sample.shape[0],
        )
        return calls.finest_up(x, maps, shifts, keys_values, merging, residuals)

    def reload(self, *, delta: Delta | None = None, live: Live | None = None) -> Survival:
        """See Backbone.reload."""
        if self._reload is None:
            raise UnsupportedError(
                "This UNet was not loaded from a checkpoint.", "Load it with families.base.load_backbone."
            )
        return self._reload(delta=delta, live=live)

    def _embed_guidance(self, guidance_scale: float, batch: int) -> mx.array | None:
        """The guidance scale as an input (Meng et al. 2023), embedded like a timestep of 1000 w: (B, width)."""
        width = self.config.time_cond_proj_dim
        if width is None:
            return None
        scales = mx.full((batch,), 1000 * (guidance_scale - 1))
        return timestep_embedding(scales, width, flip_sin_to_cos=False, freq_shift=1)

    def _in_dtype(self, residuals: Residuals) -> Residuals:
        if not residuals.down and not residuals.adapter and residuals.mid is None:
            return residuals
        self.network.check_residuals(residuals)
        mid = None if residuals.mid is None else residuals.mid.astype(self.dtype)
        down, adapter = ([x.astype(self.dtype) for x in part] for part in (residuals.down, residuals.adapter))
        return Residuals(down, mid, adapter)


def _of_pictures(conditioning: Conditioning) -> list[list[KeysValues]]:
    """For each attention to the prompt, the keys and values of all that pictures add there."""
    found = [prompt.attend(prompt.tokens) for prompt in conditioning.pictures]
    return [[each for prompt in prompts for each in prompt] for prompts in zip(*found, strict=True)]


def _leaves(module: nn.Module) -> list[mx.array]:
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    return list(parameters.values())


def _in_fp32(timestep: float) -> float:
    return float(np.float32(timestep))
