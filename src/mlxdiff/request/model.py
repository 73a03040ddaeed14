"""Settings of the networks: which checkpoint is loaded, how its weights are held, and how they are computed faster."""

from __future__ import annotations

from dataclasses import dataclass

from .declarations import Choice, Number, PartReference, Reference, Text, Whole, WholeChoice, setting
from .kinds import MAX_STEPS

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
QUANTIZE_BITS = (8, 4)
DTYPES = ("fp16", "bf16", "fp32")
MAX_TOKEN_MERGING = 0.75  # one token of every four is what the others merge into


@dataclass(frozen=True)
class Model:
    """What is loaded. `reference` is a built-in name, hub id, folder or file; None is the default model.

    The other fields are Request's settings of the same names.
    """

    reference: str | None = None
    revision: str | None = None
    dtype: str | None = None
    quantize: int | None = None
    vae: str | None = None
    prediction_type: str | None = None

    @property
    def place(self) -> str | None:
        """The reference with its revision: NAME@REVISION."""
        return self.reference if self.revision is None else f"{self.reference}@{self.revision}"


@dataclass(frozen=True)
class ModelSettings:
    """The checkpoint."""

    model: str | None = setting(
        Reference(),
        "Built-in name, hub id (owner/name[@revision]), folder or .safetensors file.",
        group="Model",
        scope="model",
        unset="MLXDIFF_MODEL, the one set by `pull --set-default`, or the built-in emoji",
        flags=("-m",),
    )
    revision: str | None = setting(
        Text(), "Branch, tag or commit of a hub model.", group="Model", scope="model", unset="main", vary=False
    )


@dataclass(frozen=True)
class NetworkSettings:
    """What makes the networks faster, smaller, or others than the checkpoint's own."""

    cache_interval: int | None = setting(
        Whole(1, MAX_STEPS),
        "Compute the network's deep part in one call of this many, and reuse it in between (DeepCache); 1 is exact.",
        group="Speed",
        unset="1",
        neutral=1,
        a1111="Cache interval",
    )
    token_merging: float | None = setting(
        Number(0, MAX_TOKEN_MERGING),
        f"Fraction (0 to {MAX_TOKEN_MERGING:g}) of similar tokens merged before self-attention (ToMe); 0 is exact.",
        group="Speed",
        unset="0",
        neutral=0.0,
        a1111="Token merging ratio",
    )
    dtype: str | None = setting(
        Choice(DTYPES), "Precision of the networks.", group="Speed", scope="model", unset="fp16 on a GPU, fp32 on a CPU"
    )
    quantize: int | None = setting(
        WholeChoice(QUANTIZE_BITS, "bits"),
        "Bits of the linear layers: 8 or 4.",
        group="Speed",
        scope="model",
        unset="off",
    )
    vae: str | None = setting(
        PartReference("vae"),
        "VAE to use instead, also a tiny one (TAESD): folder, .safetensors file, name, or hub id.",
        group="Model",
        scope="model",
        unset="none",
    )
    prediction_type: str | None = setting(
        Choice(PREDICTION_TYPES),
        "What the network predicts, where its file does not say.",
        group="Model",
        scope="model",
        unset="the checkpoint's",
    )
