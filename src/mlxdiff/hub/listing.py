"""What the hub says of a repository, believed only after it has been looked at: its commit, and its files.

A hub may be broken or hostile. What comes from here names folders, files and locks, and decides what is
written and how much: every value has its type, its form and its bounds by then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..errors import CheckpointError, MlxdiffError
from . import client
from .reference import COMMIT, DIGEST, can_name_a_file, shown
from .retry import retried

PLAN_SECONDS = 300.0  # for all questions of one plan
ANSWER_BYTES = 16 * 2**20  # of one answer; a page of a thousand files is below 1 MB
CONFIG_BYTES = 2**20
LISTING_BYTES = 128 * 2**20
PAGES = 1000
FILES = 100_000
LARGEST = 2**42  # bytes of one file, 4 TB
LARGEST_CONFIG = 64 * 2**20  # bytes of one that is read as a whole: JSON, a vocabulary


@dataclass(frozen=True)
class ListedFile:
    """A file of a repository: its path there, its bytes, and its hash (SHA-256, or git's SHA-1)."""

    path: str
    size: int
    digest: str


def commit_of(name: str, revision: str, headers: Mapping[str, str], deadline: float) -> str:
    """The commit that a branch or tag stands for on the hub."""
    url = f"{_api(name)}/revision/{quote(revision, safe='')}"
    answer, _, _ = retried(lambda: client.ask(url, headers, ANSWER_BYTES), deadline)
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or COMMIT.fullmatch(commit) is None:
        raise MlxdiffError(f"The hub names no commit for {name}.", "Check HF_ENDPOINT, or try again later.")
    return commit


def files_of(name: str, commit: str, headers: Mapping[str, str], deadline: float) -> dict[str, ListedFile]:
    """Every file of a commit, by its path; folders are left out.

    Raises MlxdiffError for a list that makes no sense, has no end or is too long.
    """
    url: str | None = f"{_api(name)}/tree/{commit}?recursive=True&expand=False"
    found: dict[str, ListedFile] = {}
    asked: set[str] = set()
    entries = size = 0
    while url is not None:
        page_url = url
        if page_url in asked or len(asked) >= PAGES or time.monotonic() > deadline:
            raise client.no_hub(f"its list of {name} has no end")
        asked.add(page_url)
        page, url, length = retried(lambda url=page_url, sent=headers: client.ask(url, sent, ANSWER_BYTES), deadline)
        if url is not None:
            headers = client.without_token(headers, page_url, url)
        size += length
        if not isinstance(page, list):
            raise _malformed(name, f"a page of it is a {type(page).__name__}, not a list")
        entries += len(page)
        if entries > FILES or size > LISTING_BYTES:
            raise MlxdiffError(
                f"The hub lists more files of {name} than any model has: {entries}, in {size / 1e6:.1f} MB.",
                "Choose another repository.",
            )
        for entry in page:
            file = _listed(name, entry)
            if file is not None:
                found[file.path] = file
    return found


def config_of(name: str, commit: str, path: str, headers: Mapping[str, str], deadline: float) -> dict[str, Any]:
    """The JSON object in a small file of a commit, read before anything is brought. Raises CheckpointError for another
    content."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(name, path, revision=commit)
    content = retried(lambda: client.content(url, headers, CONFIG_BYTES), deadline)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} of {name} is no JSON object.", "Choose another repository or revision.")
    return value


def check_chosen(name: str, file: ListedFile) -> None:
    """Raises MlxdiffError for a file that cannot be kept under its path, or is too large for what it is."""
    if not can_name_a_file(file.path):
        raise _malformed(name, f"{shown(file.path)} can name no file here")
    if not file.path.endswith(".safetensors") and file.size > LARGEST_CONFIG:
        raise _malformed(name, f"{file.path} has {file.size:,} bytes, too many for a config or a vocabulary")


def _api(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/api/models/{name}"


def _listed(name: str, entry: Any) -> ListedFile | None:
    """One entry of the list; None for a folder."""
    if not isinstance(entry, dict):
        raise _malformed(name, f"an entry is {shown(entry)}, not an object")
    kind, path, size = entry.get("type"), entry.get("path"), entry.get("size")
    if not isinstance(kind, str):
        raise _malformed(name, f"an entry's type is {shown(kind)}")
    if kind != "file":
        return None
    if not isinstance(path, str) or not _stays_inside(path):
        raise _malformed(name, f"{shown(path)} is no path of a file")
    if type(size) is not int or not 0 <= size <= LARGEST:
        raise _malformed(name, f"the size of {shown(path)} is {shown(size)}")
    lfs = entry.get("lfs")
    if lfs is not None and (not isinstance(lfs, dict) or lfs.get("size", size) != size):
        raise _malformed(name, f"what it says of the large file {shown(path)} is {shown(lfs)}")
    digest, digits = (entry.get("oid"), 40) if lfs is None else (lfs.get("oid"), 64)
    if not isinstance(digest, str) or DIGEST.fullmatch(digest) is None or len(digest) != digits:
        raise _malformed(name, f"the hash of {shown(path)} is {shown(digest)}")
    return ListedFile(path, size, digest)


def _stays_inside(path: str) -> bool:
    return (
        0 < len(path) <= 4000
        and not any(part in ("", ".", "..") for part in path.replace("\\", "/").split("/"))
        and not any(letter < " " or letter == "\x7f" for letter in path)
    )


def _malformed(name: str, what: str) -> MlxdiffError:
    return MlxdiffError(
        f"The hub's list of the files of {name} makes no sense: {what}.",
        "Check HF_ENDPOINT and any proxy, or choose another repository.",
    )
