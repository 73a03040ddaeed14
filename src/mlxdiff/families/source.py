"""Where a checkpoint's parts come from: a folder with one folder a component, or one file with all of them.

Loaders ask for a component by its name and do not know which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint.detect import ModelIndex, parse_model_index, read_json, read_model_index
from ..checkpoint.load import fill, load_component
from ..checkpoint.rename import UNCHANGED, Rename
from ..checkpoint.single_file import SingleFile, read_vae_file
from ..errors import UnsupportedError
from ..text.tokenizer import Tokenizer

Module = TypeVar("Module", bound=nn.Module)


class Source(Protocol):
    """`path` is the folder or the file. Each reads only what it is asked for; errors are CheckpointError."""

    @property
    def path(self) -> Path: ...

    def index(self) -> ModelIndex:
        """The pipeline's class, its components and its options."""
        ...

    def config(self, component: str) -> Mapping[str, Any]:
        """What the component's config.json says, or would say."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """mlxdiff's own defaults for the checkpoint: steps, guidance_scale, height, width."""
        ...

    def tokenizer(self, component: str) -> Tokenizer: ...

    def load(
        self,
        module: Module,
        component: str,
        *,
        dtype: mx.Dtype,
        rename: Rename = UNCHANGED,
        bits: int | None = None,
    ) -> Module:
        """Fills the module strictly and lazily, and returns it; `rename` and `bits` are checkpoint.load's."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder in the diffusers layout."""

    path: Path

    def index(self) -> ModelIndex:
        return read_model_index(self.path)

    def config(self, component: str) -> Mapping[str, Any]:
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(self.path / component / name)

    def settings(self) -> Mapping[str, Any]:
        path = self.path / "mlxdiff.json"
        return read_json(path) if path.exists() else {}

    def tokenizer(self, component: str) -> Tokenizer:
        return Tokenizer.from_folder(self.path / component)

    def load(
        self,
        module: Module,
        component: str,
        *,
        dtype: mx.Dtype,
        rename: Rename = UNCHANGED,
        bits: int | None = None,
    ) -> Module:
        return load_component(module, self.path / component, dtype=dtype, rename=rename, bits=bits)


@dataclass(frozen=True)
class FileSource:
    """One file in the original layout; what it cannot say ships with the package."""

    file: SingleFile

    @property
    def path(self) -> Path:
        return self.file.path

    def index(self) -> ModelIndex:
        return parse_model_index(self.path, self.file.configs["model_index"])

    def config(self, component: str) -> Mapping[str, Any]:
        return self.file.configs[component]

    def settings(self) -> Mapping[str, Any]:
        return {}

    def tokenizer(self, component: str) -> Tokenizer:
        return Tokenizer.clip(self.file.configs[component].get("pad_token"))

    def load(
        self,
        module: Module,
        component: str,
        *,
        dtype: mx.Dtype,
        rename: Rename = UNCHANGED,
        bits: int | None = None,
    ) -> Module:
        if component == "vae" and not self.file.has_vae:
            raise UnsupportedError(
                f"{self.path} holds no VAE.", "Give one with --vae: a folder, or a .safetensors file."
            )
        return fill(module, self.file.weights(component), source=str(self.path), dtype=dtype, rename=rename, bits=bits)


@dataclass(frozen=True)
class WithVAE:
    """Another source whose VAE is replaced by that of `vae`: a component's folder, a model's folder, or one file.

    A file says neither its config nor how far its latents spread: they are those of the VAE that it replaces.
    """

    base: Source
    vae: Path

    @property
    def path(self) -> Path:
        return self.base.path

    @property
    def _folder(self) -> Path:
        return self.vae if (self.vae / "config.json").exists() else self.vae / "vae"

    def index(self) -> ModelIndex:
        return self.base.index()

    def config(self, component: str) -> Mapping[str, Any]:
        if component != "vae" or self.vae.is_file():
            return self.base.config(component)
        return read_json(self._folder / "config.json")

    def settings(self) -> Mapping[str, Any]:
        return self.base.settings()

    def tokenizer(self, component: str) -> Tokenizer:
        return self.base.tokenizer(component)

    def load(
        self,
        module: Module,
        component: str,
        *,
        dtype: mx.Dtype,
        rename: Rename = UNCHANGED,
        bits: int | None = None,
    ) -> Module:
        if component != "vae":
            return self.base.load(module, component, dtype=dtype, rename=rename, bits=bits)
        if not self.vae.is_file():
            return load_component(module, self._folder, dtype=dtype, rename=rename, bits=bits)
        levels = len(self.base.config("vae").get("block_out_channels", (64,)))
        return fill(
            module, read_vae_file(self.vae, levels), source=str(self.vae), dtype=dtype, rename=rename, bits=bits
        )
