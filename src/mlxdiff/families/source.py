"""Where a checkpoint's parts come from: a folder with one folder a component, or one file with all of them.

Loaders ask for a component by its name and do not know which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..checkpoint.detect import ModelIndex, parse_model_index, read_json, read_model_index, tiny_vae_halves
from ..checkpoint.load import StoredWeights, read_component
from ..checkpoint.single_file import SingleFile, read_vae_file
from ..checkpoint.tiny_vae_file import TinyVAEFile, read_tiny_vae
from ..errors import UnsupportedError
from ..parts import BY_NAME, SETTINGS
from ..text.tokenizer import Tokenizer


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

    def weights(self, component: str) -> StoredWeights:
        """The component's weights, mapped anew at each call."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder in the diffusers layout."""

    path: Path

    def index(self) -> ModelIndex:
        return read_model_index(self.path)

    def config(self, component: str) -> Mapping[str, Any]:
        return read_json(self.path / component / BY_NAME[component].config)

    def settings(self) -> Mapping[str, Any]:
        path = self.path / SETTINGS
        return read_json(path) if path.exists() else {}

    def tokenizer(self, component: str) -> Tokenizer:
        return Tokenizer.from_folder(self.path / component)

    def weights(self, component: str) -> StoredWeights:
        return read_component(self.path / component)


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

    def weights(self, component: str) -> StoredWeights:
        if component == "vae" and not self.file.has_vae:
            raise UnsupportedError(
                f"{self.path} holds no VAE.", "Give one with --vae: a folder, or a .safetensors file."
            )
        return StoredWeights(self.file.weights(component), str(self.path))


@dataclass(frozen=True)
class WithVAE:
    """Another source whose VAE is replaced by that of `vae`: a component's folder, a model's folder, or one file.

    A file says neither its config nor how far its latents spread: they are those of the VAE that it replaces. Of a tiny
    VAE, in a file or in a folder with its two halves, they follow from its weights.
    """

    base: Source
    vae: Path

    @property
    def path(self) -> Path:
        return self.base.path

    @cached_property
    def _tiny(self) -> TinyVAEFile | None:
        is_one = self.vae.is_file() or (not self._folder.is_dir() and tiny_vae_halves(self.vae) != [])
        return read_tiny_vae(self.vae) if is_one else None

    @property
    def _folder(self) -> Path:
        return self.vae if (self.vae / "config.json").exists() else self.vae / "vae"

    def index(self) -> ModelIndex:
        return self.base.index()

    def config(self, component: str) -> Mapping[str, Any]:
        if component != "vae":
            return self.base.config(component)
        if self._tiny is not None:
            config = self._tiny.config
        elif self.vae.is_file():
            return self.base.config(component)
        else:
            config = read_json(self._folder / "config.json")
        own, its = (values.get("latent_channels", 4) for values in (self.base.config(component), config))
        if own != its:
            raise UnsupportedError(
                f"{self.vae} is for latents of {its} channels, the model's have {own}.",
                "Give a VAE that was made for the model's family.",
            )
        return config

    def settings(self) -> Mapping[str, Any]:
        return self.base.settings()

    def tokenizer(self, component: str) -> Tokenizer:
        return self.base.tokenizer(component)

    def weights(self, component: str) -> StoredWeights:
        if component != "vae":
            return self.base.weights(component)
        if self._tiny is not None:
            return StoredWeights(self._tiny.weights(), str(self.vae))
        if not self.vae.is_file():
            return read_component(self._folder)
        levels = len(self.base.config("vae").get("block_out_channels", (64,)))
        return StoredWeights(read_vae_file(self.vae, levels), str(self.vae))
