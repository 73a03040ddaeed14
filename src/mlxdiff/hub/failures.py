"""What can go wrong between here and the hub, in two sentences each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import MlxdiffError, ModelNotFoundError
from ..files import output_error
from .local import cached_names
from .mirrors import MIRRORS, RemovedError, nearest
from .transfer import Stopped


@contextmanager
def explained(name: str, revision: str) -> Iterator[None]:
    """Any failure of huggingface_hub inside becomes a MlxdiffError of two sentences."""
    try:
        yield
    except (MlxdiffError, Stopped):
        raise
    except Exception as error:
        raise _explain(error, name, revision) from error


def _explain(error: BaseException, name: str, revision: str) -> MlxdiffError:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    again = "Run the same command again; the files that have arrived are kept."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ModelNotFoundError(
            f"{name} cannot be fetched while HF_HUB_OFFLINE is set.", "Unset it, or use a model from the cache."
        )
    if isinstance(error, errors.GatedRepoError):
        return ModelNotFoundError(
            f"{name} is gated: its owner shows it only to those who accept the terms.",
            f"Accept them at {hub}/{name}, then set HF_TOKEN or run: hf auth login",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return _no_repository(name)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{name} has no revision {revision}.", "Name one of its branches, tags or commits, or none."
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error, name)
    if isinstance(error, errors.HFValidationError):
        return ModelNotFoundError(f"{name!r} is no id of a repository.", "It has the form owner/name.")
    # httpx or httpx2, whichever this version of huggingface_hub is built on.
    if isinstance(error, errors.HfHubHTTPError.__bases__[0]):
        return MlxdiffError(
            f"The hub at {hub} cannot be reached ({type(error).__name__}).",
            f"Check the connection, a proxy and HF_ENDPOINT. {again}",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return output_error(Path(constants.HF_HUB_CACHE if error.filename is None else error.filename), error)
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return MlxdiffError(f"Fetching {name} failed: {said.rstrip('.')}.", again)


def _explain_status(error: Any, name: str) -> MlxdiffError:
    status = error.response.status_code
    if status == 401 and "credentials" not in error.response.headers.get("X-Error-Message", ""):
        return _no_repository(name)  # the hub's way to hide what is private from those without a token
    if status in (401, 403):
        return ModelNotFoundError(
            f"The hub refuses {name} to this token (HTTP {status}).", "Check HF_TOKEN, or run: hf auth login"
        )
    if status == 404:
        return ModelNotFoundError(
            f"A file of {name} is gone from the hub.", "Run the same command again, for its newest files."
        )
    if status == 429:
        return MlxdiffError(
            "The hub has had too many requests from here (HTTP 429).",
            "Wait some minutes and run the same command again; with HF_TOKEN set, the limit is higher.",
        )
    return MlxdiffError(
        f"The hub failed to answer for {name} (HTTP {status}).", "Run the same command again in some minutes."
    )


def _no_repository(name: str) -> ModelNotFoundError:
    if name in MIRRORS:
        return RemovedError(name, MIRRORS[name])
    near = nearest(name, cached_names())
    hint = "Check its spelling" if near is None else f"Did you mean {near}? Check the spelling"
    return ModelNotFoundError(
        f"There is no repository {name} on the hub, or it is private.",
        f"{hint}; for a private one set HF_TOKEN or run: hf auth login",
    )
