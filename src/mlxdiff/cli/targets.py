"""Where decoded pictures go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from ..request import Request


@dataclass(frozen=True)
class Destination:
    """Where --output sends pictures: to a file, or into a folder under the latents' own names."""

    path: Path
    is_folder: bool


def destination(wanted: str | None, n_files: int) -> Destination | None:
    """What --output means; raises RequestError where several files would become one picture."""
    if wanted is None:
        return None
    path = Path(wanted)
    is_folder = path.is_dir() or wanted.endswith(("/", "\\")) or not path.suffix
    if n_files > 1 and not is_folder:
        raise RequestError(
            f"There are {n_files} files of latents, and --output {wanted} is one picture.", "Name a folder instead."
        )
    return Destination(path, is_folder)


def targets_of(path: Path, wanted: Destination | None, request: Request) -> list[Path]:
    """A path for each image. Without --output never the one of the picture that was made with the latents."""
    if wanted is None:
        named = path.with_suffix(".png")
    elif wanted.is_folder:
        named = wanted.path / f"{path.stem}.png"
    else:
        named = wanted.path
    several = (
        [named.with_stem(f"{named.stem}-{name}") for name in request.image_names] if request.batch_size > 1 else [named]
    )
    if wanted is not None:
        return several
    return [target.with_stem(f"{target.stem}-decoded") if target.exists() else target for target in several]
