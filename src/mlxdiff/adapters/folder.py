"""Where an adapter's weights are: a file, or the one in a folder as PEFT and diffusers write it."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError, UnsupportedError

_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_PICKLES = (".pt", ".bin", ".pth", ".ckpt")


def weights_in(path: Path) -> Path:
    """The .safetensors file of an adapter.

    Raises CheckpointError where it is not clear which, UnsupportedError for a pickle.
    """
    if path.suffix.lower() in _PICKLES:
        raise _pickle(path)
    if not path.is_dir():
        return path
    found = next((path / name for name in _NAMES if (path / name).is_file()), None)
    if found is not None:
        return found
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if not files:
        pickles = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICKLES)
        if pickles:
            raise _pickle(pickles[0])
        raise CheckpointError(f"{path} holds no .safetensors file.", "Give the folder or the file of a LoRA.")
    names = ", ".join(file.name for file in files[:4])
    raise CheckpointError(f"{path} holds {len(files)} files ({names}).", "Name the one that is meant.")


def _pickle(path: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{path} is a pickle, which could run any code when it is opened.",
        "Get the LoRA as .safetensors, or convert one that you trust.",
    )
