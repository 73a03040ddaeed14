"""One UNet with the same weights in mlxdiff and in what people would use instead, each behind the same call.

A peer is made once from a model's weights; `ready(inputs)` gives a call that computes one output, waits for it and
returns it. How the pipeline runs mlxdiff's network is in `Mlxdiff.ready` alone.
"""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import checkpoints
import devices
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import plain
import timing

from mlxdiff import backend
from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig
from mlxdiff.models.unet_backbone import Calls

COMPILE_MODES = {
    "compile": "default",
    "compile-autotune": "max-autotune-no-cudagraphs",
    "compile-graphs": "reduce-overhead",
}
NAMES = ("diffusers", *COMPILE_MODES, "openvino", "plain", "mlxdiff")

TIMESTEP = 601.0
Call = Callable[[], Any]


@dataclass(frozen=True)
class Inputs:
    """A call's arguments in numpy: latents (B, h, w, 4), context (B, 77, D), and SDXL's pooled and time_ids."""

    latents: np.ndarray
    context: np.ndarray
    pooled: np.ndarray | None
    time_ids: np.ndarray | None

    @classmethod
    def random(cls, config: UNetConfig, rows: int, height: int, width: int, dtype: str) -> Inputs:
        rng = np.random.default_rng(1)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal((rows, *shape), np.float32).astype(dtype)

        latents = normal(height, width, config.in_channels)
        context = normal(77, config.cross_attention_dim[-1])
        if config.time_id_width is None or config.added_width is None:
            return cls(latents, context, None, None)
        pixels = [8 * height, 8 * width, 0, 0, 8 * height, 8 * width]
        pooled = normal(config.added_width - len(pixels) * config.time_id_width)
        return cls(latents, context, pooled, np.array([pixels] * rows, np.float32))


class Peer(ABC):
    """An implementation of one UNet. `note` says what it chose by itself; `close` lets go of what it holds."""

    note = ""

    @abstractmethod
    def ready(self, inputs: Inputs) -> Call: ...

    @abstractmethod
    def output(self, result: Any) -> np.ndarray:
        """What a call returned, as fp32 (B, h, w, 4)."""


class InMLX(Peer):
    """A module of MLX with the weights, to be called on MLX's arrays."""

    def __init__(self, module: nn.Module, weights: Mapping[str, mx.array]):
        self.module = module
        module.load_weights(list(weights.items()))

    def output(self, result: mx.array) -> np.ndarray:
        return np.array(result.astype(mx.float32))


class Mlxdiff(InMLX):
    """mlxdiff's UNet, run as StableDiffusion's denoising loop runs it."""

    module: UNet2DConditionModel

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, mx.array]):
        super().__init__(UNet2DConditionModel(UNetConfig.from_dict(config)), weights)
        self.module.fuse().pack()

    def ready(self, inputs: Inputs) -> Call:
        """What the prompt and the timesteps alone decide is computed once a picture, and so not timed."""
        latents, timestep, context, told = arguments_in_mlx(inputs)
        latents, context = (a.astype(self.module.dtype) for a in (latents, context))
        rows = latents.shape[0] if told else 1
        shifts = self.module.time_shifts(mx.broadcast_to(timestep, (rows,)), **told)
        keys_values = self.module.keys_values(context)
        mx.eval(shifts, keys_values)
        predict = Calls(self.module, backend.is_gpu()).predict
        return lambda: evaluated(predict(latents, shifts, keys_values))


class Plain(InMLX):
    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, mx.array]):
        super().__init__(plain.UNet(config), weights)

    def ready(self, inputs: Inputs) -> Call:
        latents, timestep, context, told = arguments_in_mlx(inputs)
        return lambda: evaluated(self.module(latents, timestep, context, **told))


def evaluated(output: mx.array) -> mx.array:
    mx.eval(output)
    return output


def arguments_in_mlx(inputs: Inputs) -> tuple[mx.array, mx.array, mx.array, dict[str, mx.array]]:
    """(latents, timestep, context, what SDXL is told besides)."""
    told = {"pooled": inputs.pooled, "time_ids": inputs.time_ids}
    arrays = {name: mx.array(array) for name, array in told.items() if array is not None}
    return mx.array(inputs.latents), mx.array(TIMESTEP), mx.array(inputs.context), arrays


class Diffusers(Peer):
    """diffusers' UNet, eager, in the faster of torch's two memory formats."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], dtype: str | None = None):
        self.module = in_torch(config, weights)
        self.dtype = None
        if dtype is not None:
            import torch

            self.dtype = getattr(torch, dtype)
            self.module.to(self.dtype)

    def ready(self, inputs: Inputs) -> Call:
        import torch

        arguments = arguments_in_torch(inputs)
        if self.dtype is not None:
            arguments = tuple(argument if argument.ndim == 0 else argument.to(self.dtype) for argument in arguments)

        def call() -> Any:
            with torch.inference_mode():
                output = self.module(*arguments)
            devices.wait_for_torch()
            return output

        times = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            self.module.to(memory_format=layout)
            call()
            times[layout] = timing.seconds(call)
        best = min(times, key=times.__getitem__)
        self.module.to(memory_format=best)
        self.note = str(best).removeprefix("torch.")
        return call

    def output(self, result: Any) -> np.ndarray:
        return result.float().cpu().numpy().transpose(0, 2, 3, 1)


class Compiled(Diffusers):
    """The same through torch.compile, for one shape at a time; the weights are channels_last."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], mode: str):
        import torch

        super().__init__(config, weights)
        self.module.to(memory_format=torch.channels_last)
        torch._dynamo.config.recompile_limit = 64  # a shape counts as one
        self.mode = self.note = mode

    def ready(self, inputs: Inputs) -> Call:
        import torch

        arguments = arguments_in_torch(inputs)
        compiled = torch.compile(self.module, mode=self.mode, dynamic=False, fullgraph=True)

        def call() -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.inference_mode():
                output = compiled(*arguments)
            devices.wait_for_torch()
            return output

        return call


class OpenVINO(Peer):
    """diffusers' UNet converted for OpenVINO's CPU plugin, in fp32 or bf16, for one shape at a time."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], dtype: str | None = None):
        self.precision = self.note = "f32" if dtype is None else "bf16"
        try:
            import openvino  # pyright: ignore[reportMissingImports]
        except ImportError:
            sys.exit("The peer openvino is not installed. Run: pip install openvino, or leave it out of --peers.")
        self.openvino = openvino
        self.module = in_torch(config, weights)

    def ready(self, inputs: Inputs) -> Call:
        arguments = arguments_in_torch(inputs)
        shapes = [tuple(argument.shape) for argument in arguments]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of each size that becomes a constant, which is meant
            model = self.openvino.convert_model(self.module, example_input=arguments, input=shapes)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
        if _threads:
            settings["INFERENCE_NUM_THREADS"] = _threads[0]
        compiled = self.openvino.compile_model(model, "CPU", settings)
        arrays = [argument.numpy() for argument in arguments]
        return lambda: compiled(arrays)[0]

    def output(self, result: np.ndarray) -> np.ndarray:
        return result.transpose(0, 2, 3, 1)


_threads: list[int] = []  # what limit_threads has said


def limit_threads(number: int) -> None:
    """Has all peers that are made from now on compute on so many threads of a CPU."""
    import torch

    from mlxdiff.kernels import native

    _threads[:] = [number]
    torch.set_num_threads(number)
    if (extension := native.serving()) is not None:
        extension.set_threads(number)


def in_torch(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Any:
    """diffusers' UNet as a module of tensors alone: (latents, timestep, context[, pooled, time_ids]) -> output."""
    import torch
    from diffusers import UNet2DConditionModel as Theirs

    class TensorsOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.device("meta"):
                self.unet = Theirs(**{key: value for key, value in config.items() if not key.startswith("_")})
            state = {path: torch.from_numpy(checkpoints.torch_layout(array)) for path, array in weights.items()}
            self.unet.load_state_dict(state, assign=True)  # on a CPU all peers in torch share numpy's memory

        def forward(self, latents, timestep, context, pooled=None, time_ids=None):
            told = None if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
            return self.unet(latents, timestep, context, added_cond_kwargs=told, return_dict=False)[0]

    torch.backends.cudnn.benchmark = True
    return TensorsOnly().eval().requires_grad_(False).to(devices.torch_device())


def arguments_in_torch(inputs: Inputs) -> tuple[Any, ...]:
    import torch

    latents = np.ascontiguousarray(inputs.latents.transpose(0, 3, 1, 2))
    arrays = [latents, np.array(TIMESTEP, np.float32), inputs.context]
    arrays += [array for array in (inputs.pooled, inputs.time_ids) if array is not None]
    return tuple(torch.from_numpy(array).to(devices.torch_device()) for array in arrays)


def make(
    name: str,
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    arrays: Mapping[str, mx.array],
    dtype: str | None = None,
) -> Peer:
    """A peer by its name in NAMES; `weights` and `arrays` are the same in numpy and in MLX, in MLX's layout.

    dtype  "bfloat16" for peers in torch and OpenVINO, whose weights come in fp32
    """
    if name == "mlxdiff":
        return Mlxdiff(config, arrays)
    if name == "plain":
        return Plain(config, arrays)
    if name == "openvino":
        return OpenVINO(config, weights, dtype)
    if name == "diffusers":
        return Diffusers(config, weights, dtype)
    return Compiled(config, weights, COMPILE_MODES[name])
