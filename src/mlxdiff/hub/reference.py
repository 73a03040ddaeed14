"""What a user calls a model or a part: a built-in or short name, owner/name[@revision], a file of one, an address.

Asks no disk, no hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ..errors import InputError
from .known import spelled_out

BUILT_IN = "emoji"
MAIN = "main"
SINGLE_FILE = ".safetensors"
HUB = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")
# SHA-256 of a large file, git's SHA-1 of a small one. Nothing else may name a blob.
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
FORMS = (
    f"A model is {BUILT_IN} (built in), a hub id such as owner/name or owner/name@revision, a short name of one"
    f" (pull --list-known), its address on the hub, a folder's path, or a {SINGLE_FILE} file's."
)

_REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<revision>\w[\w./+-]*))?", re.ASCII)
# A file of a repository; pickles too, so that they are refused for what they are.
_FILE = re.compile(
    r"(?P<name>\w[\w.-]*/[\w.-]+)/(?P<file>[^@]+\.(?:safetensors|bin|ckpt|pth?))(@(?P<revision>\w[\w./+-]*))?",
    re.ASCII | re.IGNORECASE,
)
_known_paths: ContextVar[Collection[str] | None] = ContextVar("known_paths", default=None)
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_OTHER_KINDS = ("datasets", "spaces", "docs", "blog", "papers", "collections", "models", "api")
_PAGES = ("tree", "blob", "resolve", "raw", "commit")
_PAGES_OF_FILES = ("blob", "resolve", "raw")
# What one of the common systems refuses in a file's name, or reads as a path.
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|]')


@dataclass(frozen=True)
class HubReference:
    """A repository on the hub; `revision` is None for main, `file` a path in it that is named."""

    name: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        """As mlxdiff writes it down: owner/name[@revision], or the address of the file."""
        if self.file is not None:
            revision = MAIN if self.revision is None else self.revision
            return f"{HUB}/{self.name}/blob/{quote(revision, safe='')}/{quote(self.file)}"
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def typed(self) -> str:
        """As people type it: owner/name[/file][@revision]."""
        whole = self.name if self.file is None else f"{self.name}/{self.file}"
        return whole if self.revision is None else f"{whole}@{self.revision}"


def parse_reference(reference: str) -> HubReference | None:
    """owner/name[/file][@revision], a short name of a repository, or an address on the hub, in its parts.

    None for what has another form, and for what could lead out of the cache.
    """
    if is_address(reference):
        return _of_address(reference)
    reference = spelled_out(reference)
    named = _of_id(reference)
    return _of_file(reference) if named is None else named


def parse_repository(reference: str) -> tuple[str, str | None] | None:
    """The name and the revision of `parse_reference`."""
    parsed = parse_reference(reference)
    return None if parsed is None else (parsed.name, parsed.revision)


def canonical(reference: str) -> str:
    """An address or a short name of a repository as owner/name[@revision]; anything else as it is."""
    parsed = parse_reference(reference) if is_address(reference) else None
    return spelled_out(reference) if parsed is None else str(parsed)


def is_address(reference: str) -> bool:
    """Whether a reference is a web address, or one of the hub's without its https://."""
    return "://" in reference or reference.partition("/")[0].lower() in _HOSTS


@contextmanager
def only_paths(known: Collection[str]) -> Iterator[None]:
    """Within it, in this thread, nothing is read as a path but these: all else is a name, whatever lies in the folder.

    For references that come from elsewhere.
    """
    token = _known_paths.set(known)
    try:
        yield
    finally:
        _known_paths.reset(token)


def as_path(reference: str) -> Path | None:
    """The reference as a path; None where no path can look like it, or where it must be none (`only_paths`).

    Raises InputError for a folder that may not be entered.
    """
    known = _known_paths.get()
    if not reference or "\0" in reference or (known is not None and reference not in known):
        return None
    try:
        path = Path(reference).expanduser()
        is_closed = path.is_dir() and not os.access(path, os.X_OK)
    except (OSError, RuntimeError, UnicodeError):  # a name too long, an unknown ~user, half a surrogate pair
        return None
    if is_closed:
        raise InputError(f"There is no permission to read {reference}.", "Change its permissions.")
    return path


def can_name_a_file(path: str) -> bool:
    """Whether a path out of a repository may become a path on this disk: below its folder, on every system."""
    parts = path.split("/")
    return (
        all(
            part not in ("", ".", "..")
            and part == part.strip()
            and not part.endswith(".")
            and _UNFIT.search(part) is None
            and len(part.encode(errors="surrogatepass")) <= 200
            and part.isprintable()
            for part in parts
        )
        and len(path) <= 1000
    )


def shown(value: object) -> str:
    """A value from a server or a file as it may stand in an error: printable ASCII, and short."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # a number of a thousand digits is no text for Python
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"


def _of_id(reference: str) -> HubReference | None:
    match = _REPOSITORY.fullmatch(reference)
    if match is None or ".." in reference or "--" in match["name"]:
        return None
    return HubReference(match["name"], match["revision"])


def _of_file(reference: str) -> HubReference | None:
    match = _FILE.fullmatch(reference)
    if match is None:
        return None
    named = _of_id(match["name"] if match["revision"] is None else f"{match['name']}@{match['revision']}")
    if named is None or not can_name_a_file(match["file"]):
        return None
    return HubReference(named.name, named.revision, match["file"])


def _of_address(address: str) -> HubReference | None:
    try:
        parts = urlsplit(address if "://" in address else f"https://{address}")
        host, port = parts.hostname, parts.port
        own = urlsplit(os.environ.get("HF_ENDPOINT", ""))
        is_hub = host in _HOSTS or (host is not None and (host, port) == (own.hostname, own.port))
    except ValueError:  # brackets or a port that make no sense
        return None
    if parts.scheme not in ("http", "https") or not is_hub:
        return None
    segments = [unquote(segment) for segment in parts.path.strip("/").split("/")]
    if len(segments) < 2 or segments[0] in _OTHER_KINDS:
        return None
    named = _of_id("/".join(segments[:2]).removesuffix(".git"))
    if named is None or len(segments) < 4 or segments[2] not in _PAGES:
        return named
    # The hub writes a revision's slashes as %2F; people who type them do not.
    length = 3 if segments[3] == "refs" and len(segments) >= 6 else 1
    revision, inside = "/".join(segments[3 : 3 + length]), "/".join(segments[3 + length :])
    whole = _of_id(f"{named.name}@{revision}")
    if whole is None or named.revision is not None:
        return None
    if segments[2] not in _PAGES_OF_FILES or not inside:
        return whole
    return HubReference(whole.name, whole.revision, inside) if can_name_a_file(inside) else None
