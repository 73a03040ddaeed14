"""StableDiffusion: prompts to latents to pictures, lazily; the only place that knows all the parts.

prompt -> conditionings -> [noise, levels -> sampler(guided(branches)) -> Step ...] -> decode -> (B, H, W, 3) in [0, 1]
There is one denoising loop, `StableDiffusion.denoise`; everything else prepares it or looks at what it yields.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import backend

backend.require_mlx()

import mlx.core as mx  # noqa: E402  (after the check, which says what to install)
import numpy as np  # noqa: E402

from . import autoencoding, canvas, hub, images, memory, quantized, resolve, upscaling  # noqa: E402
from .conditioning import Conditioning  # noqa: E402
from .diffusion.step import Step  # noqa: E402
from .errors import InputError, MlxdiffWarning, NonFiniteError, RequestError  # noqa: E402
from .evaluating import evaluated  # noqa: E402
from .families import base, family_of  # noqa: E402
from .hashing import content_hash  # noqa: E402
from .loras import adapters_of, alike  # noqa: E402
from .metadata import changed_files, picture_text  # noqa: E402
from .networks import Networks, dtype_of  # noqa: E402
from .passes import relay, stages, starting  # noqa: E402
from .passes.randomness import Randomness  # noqa: E402
from .prompts.encoding import KEPT as KEPT_CONDITIONINGS  # noqa: E402
from .prompts.encoding import EncodedPrompts, EncodedRequest, branch_count  # noqa: E402
from .request import Model, Request, Resolved, check_names  # noqa: E402
from .steering.controls import Controls  # noqa: E402
from .steering.picture_prompts import PicturePrompts  # noqa: E402
from .threads import Owner, Turn  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Unpack

    from .request.keywords import Settings

__all__ = ["KEPT_CONDITIONINGS", "StableDiffusion"]


class StableDiffusion:
    """A checkpoint that renders.

    model     built-in name, hub id[@revision], folder in the diffusers layout, or one .safetensors file in the original
              (LDM) layout; None means the default model
    dtype     mx.float16, mx.bfloat16, mx.float32 or their names; None means fp16 on a GPU and fp32 on a CPU
    quantize  8 or 4 bits for the linear layers of the backbone and the text encoders; None leaves them as they are.
              A stored copy in these bits is used if there is one (see quantized.store): the pictures are the same
    vae       a folder or one .safetensors file (of either layout) whose VAE replaces the checkpoint's
    prediction_type  what the backbone predicts (epsilon, v_prediction, sample), where the checkpoint is wrong or silent

    Reads only configs; each network's weights are loaded when it is first needed, all of them by `load`. Where memory
    is scarce (see memory.py), a network is let go when its phase is over, and loaded again when it is needed again.
    Any thread may call `generate`; a lazy loop belongs to the thread that began it. Raises ModelNotFoundError,
    CheckpointError or UnsupportedError.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        dtype: mx.Dtype | str | None = None,
        quantize: int | None = None,
        vae: str | PathLike[str] | None = None,
        prediction_type: str | None = None,
    ) -> None:
        backend.prepare()
        asked: dict[str, Any] = {"model": model, "quantize": quantize, "vae": vae, "prediction_type": prediction_type}
        wanted = Request(**asked).wanted_model
        self.snapshot = hub.resolve(hub.default_model() if wanted.reference is None else wanted.reference)
        stored = None if quantize is None else quantized.find(self.snapshot, quantize)
        vae_path = None if wanted.vae is None else hub.resolve_vae(wanted.vae)
        source = base.open_source(
            self.snapshot.path if stored is None else stored, vae=vae_path, prediction_type=prediction_type
        )
        self.checkpoint = base.read_checkpoint(source, prediction_type=prediction_type)
        self.family = family_of(self.checkpoint)
        self.defaults = base.defaults(self.family, self.checkpoint)
        self.dtype = dtype_of(dtype)
        bits = quantized.bits_of(self.snapshot.path) if quantize is None else quantize  # a copy by its own path
        self.model = Model(
            reference=self.snapshot.reference,
            revision=self.snapshot.revision,
            dtype=backend.dtype_name(self.dtype),
            quantize=bits,
            vae=wanted.vae,
            prediction_type=prediction_type,
        )
        if not backend.is_fast(self.dtype):
            text = f"On a CPU {self.model.dtype} is about 50 times slower than fp32."
            warnings.warn(MlxdiffWarning(text), stacklevel=2)
        hashes = () if wanted.vae is None or vae_path is None else ((wanted.vae, content_hash(vae_path)),)
        self._loaded = resolve.Loaded(self.model, self.checkpoint, self.defaults, hashes)
        self._turn = Turn(backend.enter_thread)
        self.networks = Networks(self.checkpoint, self.family, dtype=self.dtype, bits=bits, turn=self._turn)
        self._prompts = EncodedPrompts(self.networks)
        self._refiner: tuple[str, StableDiffusion] | None = None  # by the name that it was asked for with
        self._pictures = starting.EncodedPictures(self.networks)
        self._controls = Controls(self.networks)
        self._picture_prompts = PicturePrompts(self.networks)

    @classmethod
    def open(cls, model: Model) -> StableDiffusion:
        """The model that a value describes, such as `Request.wanted_model`."""
        return cls(
            model.place,
            dtype=model.dtype,
            quantize=model.quantize,
            vae=model.vae,
            prediction_type=model.prediction_type,
        )

    def load(self) -> StableDiffusion:
        """Maps and checks every weight now, so that a damaged file is found before minutes are spent."""
        self.networks.load()
        return self

    def unload(self) -> None:
        """Lets all weights and encoded prompts go; the next call loads what it needs."""
        self.networks.unload()
        self._prompts = EncodedPrompts(self.networks)
        self._pictures = starting.EncodedPictures(self.networks)
        self._controls = Controls(self.networks)
        self._picture_prompts = PicturePrompts(self.networks)
        if self._refiner is not None:
            self._refiner[1].unload()

    @property
    def keeps_encoders(self) -> bool:
        """Whether the text encoders stay in memory once prompts are encoded. Loads what it must know the size of."""
        return self.networks.keeps_encoder

    def resolve(self, request: Request) -> Resolved:
        """The request with every default of the checkpoint filled in, a seed drawn, and this model's name.

        Raises RequestError where the request does not fit the checkpoint.
        """
        refiner = self._refiner_of(request)
        resolved = resolve.resolve(request, self._loaded, None if refiner is None else refiner._loaded)
        views = [view for view in relay.own_views(resolved) if view.lora]
        if views:
            with self._turn:
                for view in views:
                    self.networks.adapting.check(adapters_of(view))
        self._controls.check(resolved)
        factor, vae = self.checkpoint.scale_factor, self.checkpoint.vae
        height, width = resolved.final_size
        shape = (1, height // factor, width // factor, vae.latent_channels)
        memory.check_decoding(vae, shape, self.dtype.size)  # now, and not when all steps are done
        return resolved

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        on_step: Callable[[Step], object] | None = None,
        **settings: Unpack[Settings],
    ) -> list[images.Picture]:
        """Renders `len(prompt) * n_images` pictures, PIL images whose `info` and `save` keep how they were made.

        on_step   called with each Step once it is evaluated
        settings  Request's, such as steps=20 or seed=7 (docs/settings.md)
        """
        requests = [self.resolve(part) for part in alike(_request(prompt, settings))]
        with self._turn:
            return [picture for request in requests for picture in self.render(request, on_step=on_step)]

    def render(self, request: Resolved, *, on_step: Callable[[Step], object] | None = None) -> Iterator[images.Picture]:
        """The pictures of a resolved request, each batch when it is asked for; what `on_step` raises ends it."""
        for part in request.parts(self.batch_size(request)):
            with self._turn, backend.lack_of_memory_in_words():
                pictures = self._rendered(part, on_step)
            yield from pictures

    def _rendered(self, part: Resolved, on_step: Callable[[Step], object] | None) -> list[images.Picture]:
        latents = mx.array([])
        for step in evaluated(self.denoise(part)):
            latents = step.latents
            if on_step is not None:
                on_step(step)
        pictures = []
        for i, single in enumerate(part.singles()):
            picture = self.finish(single, self.decode(latents[i : i + 1])[0])
            pictures.append(images.with_texts(picture, picture_text(single)))
        return pictures

    def generate_latents(
        self, prompt: str | Sequence[str], *, latents: mx.array | None = None, **settings: Unpack[Settings]
    ) -> Iterator[mx.array]:
        """Yields the latents (B, H/f, W/f, C) of each step, unevaluated; B is len(prompt) * n_images.

        Nothing is computed before the first is asked for. `latents` is unit-variance Gaussian noise that replaces the
        drawn noise. The other arguments are `Request`'s. All but the last latents still carry noise of their sigma.
        """
        request = _request(prompt, settings)
        return (step.latents for step in self.denoise(request, latents=latents))

    def denoise(self, request: Request, *, latents: mx.array | None = None) -> Iterator[Step]:
        """The denoising loop: yields each `Step(index, sigma, latents, denoised)` unevaluated.

        The caller evaluates each step (`mx.eval(step.latents)`), and so sees the work happen. Only the conditioning is
        evaluated here, at the first step.
        """
        owner = Owner()
        resolved = request if isinstance(request, Resolved) else self.resolve(request)
        refiner = self._refiner_of(resolved)
        with self._turn:
            run = relay.Relay(self._runner, None if refiner is None else refiner._runner, resolved)
        steps = run.steps(latents)
        while True:
            with self._turn:  # also while a pass is prepared
                step = next(steps, None)
            if step is None:
                return
            yield step
            owner.check()

    @property
    def _runner(self) -> relay.Runner:
        row_bytes = partial(self._row_bytes, fused_attention=True)
        return relay.Runner(
            self.networks, self.checkpoint, self._prompts, self._controls, self._picture_prompts, self._start, row_bytes
        )

    def _refiner_of(self, request: Request) -> StableDiffusion | None:
        """The model that refines, of which only configs are read now; the last one is kept."""
        name = request.refiner
        if name is None:
            return None
        held = self._refiner
        if held is None or name not in (held[0], held[1].model.place):
            held = name, StableDiffusion(name, dtype=self.dtype, quantize=self.model.quantize)
            self._refiner = held
        return held[1]

    def encode_ahead(self, requests: Sequence[Resolved]) -> list[EncodedRequest]:
        """Encodes the prompts of resolved requests now, and keeps them: their `denoise` needs no text encoder then.

        One for each pass of this model. What a refiner is told is encoded as well, and pictures that are prompts are
        looked at.
        """
        with self._turn:
            self._picture_prompts.see(requests)
            for request in requests:
                refiner = self._refiner_of(request)
                if refiner is not None:
                    refiner._prompts.of(relay.refined_views(request))
            return self._prompts.of([view for request in requests for view in relay.own_views(request)])

    def encode_prompt(self, prompt: str | Sequence[str], **settings: Unpack[Settings]) -> Conditioning:
        """The conditioning of that prompt alone: context (B, S, D) and, for SDXL, pooled (B, P) and time_ids (B, 6).

        Of a prompt that changes during a run, or has several parts, it is the first. Raises InputError for prompts of
        unequal length.
        """
        request = self.resolve(_request(prompt, settings))
        with self._turn:
            return self._prompts.alone(request)

    def decode(self, latents: mx.array, *, tile: int | None = None) -> mx.array:
        """Latents (B, h, w, C) to pictures (B, H, W, 3), float in [0, 1], unevaluated unless decoded in strips.

        `tile` (pixels) decodes in strips of at most tile x tile, one picture at a time, in a fraction of the memory:
        identical up to floating-point rounding. They are evaluated one by one. None decodes as a whole if that takes no
        more than half of the memory.
        """
        channels = self.checkpoint.vae.latent_channels
        latents = autoencoding.checked(latents, "latents", f"(images, height, width, {channels})", channels)
        with self._turn:
            return autoencoding.decode(self.networks, latents, tile)

    def finish(self, request: Request, decoded: mx.array) -> np.ndarray:
        """One decoded picture (H, W, 3) in [0, 1] as it is kept: uint8, of a resolved request's `finished_size`.

        Where a part of a picture was repainted, it is put back into that picture through the mask, and what is not
        masked has the bytes that it had. An upscaler enlarges the whole. Raises NonFiniteError, BackendError where
        memory ran out, and InputError where a file that the request names is gone.
        """
        try:
            picture = images.to_uint8(decoded, request.rounding or "nearest")
        except NonFiniteError:
            backend.check_memory()
            raise
        if request.keeps_a_part:
            picture = canvas.pasted(canvas.canvas_of(request, self.checkpoint.scale_factor), picture)
        return self.enlarge(picture, request.upscaler)

    def check_kept(self, request: Request) -> None:
        """Raises InputError or RequestError where the picture that a request repaints is not here as it was."""
        changed = [name for name in changed_files(request) if name in (request.image, request.mask)]
        if changed:
            raise InputError(f"{changed[0]} has changed since.", "Get the picture again.")
        canvas.canvas_of(request.replaced(**request.neutral_values()), self.checkpoint.scale_factor)

    def enlarge(self, picture: np.ndarray, upscaler: str | None) -> np.ndarray:
        """A picture (H, W, 3) uint8 as the upscaler of that name makes it: (k H, k W, 3); without one as it is."""
        if upscaler is None:
            return picture
        with self._turn:
            return upscaling.upscale(hub.find_part(upscaler, "upscaler"), picture, dtype=self.dtype)

    def encode(self, images: mx.array) -> mx.array:
        """Images (B, H, W, 3) in [0, 1] to latents (B, H/f, W/f, C): the mean of the VAE's posterior."""
        images = autoencoding.checked(images, "images", "(images, height, width, 3)", 3)
        factor = self.checkpoint.scale_factor
        if images.shape[1] % factor or images.shape[2] % factor:
            raise InputError(
                f"The images are {images.shape[2]}x{images.shape[1]} pixels.",
                f"Their sides must be multiples of {factor}.",
            )
        with self._turn:
            vae = self.networks.vae
            return vae.normalize(autoencoding.posterior(vae, images)[0])

    def _shape(self, request: Resolved) -> tuple[int, int, int]:
        """(h, w, C) of one image's latents."""
        factor = self.checkpoint.scale_factor
        return request.height // factor, request.width // factor, self.checkpoint.vae.latent_channels

    def _start(
        self, request: Resolved, randomness: Randomness, branches: Iterable[str], latents: mx.array | None
    ) -> starting.Start:
        """What the loop starts from, and what the request's pictures add to each call."""
        shape = (request.batch_size, *self._shape(request))
        if latents is not None and tuple(latents.shape) != shape:
            raise RequestError(f"The noise given has shape {tuple(latents.shape)}.", f"It must be {shape}.")
        return starting.start(request, self.networks, self._pictures, randomness, branches, latents)

    def batch_size(self, request: Resolved) -> int:
        """The default batch size for a request: as many images as fit into memory in each of its passes."""
        with self._turn:
            self._controls.map(request)
        refiner, weights = self._refiner_of(request), self.networks.working_bytes
        if refiner is not None:
            theirs = refiner.networks.working_bytes
            weights = weights + theirs if relay.keeps_both(self.networks, refiner.networks) else max(weights, theirs)
        rows = [
            (refiner if refiner is not None and stage.refines else self)._row_bytes(
                view, fused_attention=backend.is_gpu()
            )
            for stage, view in stages.views(request)
        ]
        return memory.batch_size(max(rows), branch_count(request), weights)

    def _row_bytes(self, request: Resolved, *, fused_attention: bool) -> int:
        """What a row of a batch needs in a call of the backbone, in bytes."""
        factor, config = self.checkpoint.scale_factor, self.checkpoint.backbone
        cells = (request.height // factor) * (request.width // factor)
        row = config.bytes_per_row(cells, self.dtype.size, fused_attention=fused_attention)
        return row + len(request.control or ()) * row // 4  # what a control adds waits for the way up


def _request(prompt: Any, settings: Any) -> Request:
    check_names(settings)
    return Request(prompt=prompt, **settings)
