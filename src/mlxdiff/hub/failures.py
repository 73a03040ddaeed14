"""What can go wrong between here and the hub, in two sentences each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import MlxdiffError, ModelNotFoundError
from ..files import output_error
from .client import Refused, Stopped, TooSlow, Unreachable
from .local import cached_names
from .mirrors import MIRRORS, RemovedError, nearest
from .reference import shown

_AGAIN = "Run the same command again; the files that have arrived are kept."
_NO_REPOSITORY = ("RepoNotFound", "RepositoryNotFound")


@contextmanager
def explained(name: str, revision: str, *, file: bool = False) -> Iterator[None]:
    """Any failure of the hub inside becomes a MlxdiffError of two sentences. `file`: it was asked for one, no list."""
    try:
        yield
    except (MlxdiffError, Stopped):
        raise
    except Exception as error:
        raise _explain(error, name, revision, file) from error


def _explain(error: BaseException, name: str, revision: str, file: bool) -> MlxdiffError:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline(name)
    if isinstance(error, Refused):
        return _explain_status(error, name, revision, file)
    if isinstance(error, TooSlow):
        return MlxdiffError(
            f"{_who(error)} answers too slowly: {error.kind}.", f"Check the connection and any proxy. {_AGAIN}"
        )
    if isinstance(error, Unreachable):
        return MlxdiffError(
            f"{_who(error)} cannot be reached ({error.kind}).",
            f"Check the connection, a proxy and HF_ENDPOINT. {_AGAIN}",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return output_error(Path(constants.HF_HUB_CACHE if error.filename is None else error.filename), error)
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return MlxdiffError(f"Fetching {name} from {hub} failed: {shown(said)}.", _AGAIN)


def offline(name: str) -> ModelNotFoundError:
    """The error for what would have to be asked of the hub, which may not be asked."""
    return ModelNotFoundError(
        f"{name} cannot be fetched while HF_HUB_OFFLINE is set.", "Unset it, or use a model from the cache."
    )


def _who(error: Unreachable) -> str:
    from huggingface_hub import constants

    hub = constants.ENDPOINT
    own = hub.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return f"The hub at {hub}" if error.host in ("", own) else f"{shown(error.host)[1:-1]}, where the hub keeps files,"


def _explain_status(error: Refused, name: str, revision: str, file: bool) -> MlxdiffError:
    from huggingface_hub import constants

    status, code = error.status, error.code
    if code == "GatedRepo":
        return ModelNotFoundError(
            f"{name} is gated: its owner shows it only to those who accept the terms.",
            f"Accept them at {constants.ENDPOINT}/{name}, then set HF_TOKEN or run: hf auth login",
        )
    if code in _NO_REPOSITORY:
        return _no_repository(name)
    if code == "RevisionNotFound":
        return ModelNotFoundError(
            f"{name} has no revision {revision}.", "Name one of its branches, tags or commits, or none."
        )
    if error.message == "Access to this resource is disabled.":
        return ModelNotFoundError(f"The hub has disabled {name}.", "Choose another repository.")
    if status == 401 and "credentials" not in error.message:
        return _no_repository(name)  # the hub's way to hide what is private from those without a token
    if status in (401, 403):
        return ModelNotFoundError(
            f"The hub refuses {name} to this token (HTTP {status}).", "Check HF_TOKEN, or run: hf auth login"
        )
    if status == 404:
        if not file:
            return _no_repository(name)
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
