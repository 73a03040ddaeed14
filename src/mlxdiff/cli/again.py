"""`generate --from` many pictures: which are named, which are chosen, and what does not go with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..errors import InputError, RequestError
from ..picture_files import TEXT_FILES, is_pattern, is_picture_name
from . import finding, options, output, usage

if TYPE_CHECKING:
    from ..batch.again import Source
    from ..request import Request

STANDARD = "-"
MOST = 3  # words that are named where many are left out


def split(words: Sequence[str] | None, sources: Sequence[str] | None) -> tuple[list[str], str | None]:
    """The pictures that are named, and the prompt. Raises RequestError for more than one prompt.

    A shell makes `--from out/*` into one value and further words. Behind --from a word is a picture where it ends as
    one does (.png, .jpg, .jpeg, .webp), where it is a .txt or .json file, or where it has a slash and is a folder.
    Other files that such a pattern finds, as the journal, are left out. What might be a prompt or a file is an error.
    """
    named = list(sources or ())
    prompts, others = [], []
    for word in words or ():
        (_sort(word, named, prompts, others) if named else prompts).append(word)
    if len(prompts) > 1:
        raise usage.several_prompts(prompts)
    if others:
        listed = ", ".join(others[:MOST]) + (f" and {len(others) - MOST} more" if len(others) > MOST else "")
        output.warn(f"Left out, as they are no pictures: {listed}.")
    return named, prompts[0] if prompts else None


def _sort(word: str, named: list[str], prompts: list[str], others: list[str]) -> list[str]:
    """The list where a word behind --from belongs. Raises RequestError where that is not clear."""
    is_folder, is_file = _is(word, os.path.isdir), _is(word, os.path.isfile)
    if is_picture_name(word) or (is_folder and "/" in word) or (is_file and word.lower().endswith(TEXT_FILES)):
        return named
    if is_file and ("/" in word or PurePath(word).suffix):
        return others
    if is_folder or is_file:
        what, way = ("folder", f"Write {word}/ for the pictures in it") if is_folder else ("file", "Leave it out")
        raise RequestError(
            f"{word} is a {what} here, and might be the prompt.", f'{way}, or "{word} " with a space for the prompt.'
        )
    return prompts


def _is(word: str, what: Callable[[str], bool]) -> bool:
    try:
        return what(word)
    except ValueError:  # a name that no file can have
        return False


def are_many(named: Sequence[str], where: str | None) -> bool:
    """Whether there is more than one file, however many there turn out to be."""
    if len(named) != 1:
        return bool(named)
    (one,) = named
    return where is not None or one == STANDARD or _is(one, os.path.isdir) or _is(one, is_pattern)


def beside(
    prompts_file: str | None,
    wildcards: Path | None,
    *,
    wildcards_all: bool,
    n_rows: int | None,
    profile: str | None,
) -> str | None:
    """The option that has no meaning for many pictures, if one is given."""
    given = {
        "--prompts-file": prompts_file,
        "--wildcards": wildcards,
        "--wildcards-all": wildcards_all or None,
        "--n-rows": n_rows,
        "--profile": profile,
    }
    return next((name for name, value in given.items() if value is not None), None)


def render_again(
    named: Sequence[str],
    where: str | None,
    prompt: str | None,
    settings: Mapping[str, Any],
    run: options.RunOptions,
    output_path: str | None,
    with_model: Callable[[Request], Request],
    *,
    refused: str | None,
) -> None:
    """Renders the pictures in files and folders that `where` chooses, each with the settings given.

    with_model  gives a request the model that is to be loaded
    refused     an option that was given and has no meaning here
    """
    if refused is not None:
        raise RequestError(f"{refused} has no place beside many pictures.", "Leave it out, or name one picture.")
    if output_path == STANDARD:
        raise RequestError("Many pictures do not fit into one stream.", "Give --output a folder.")
    if where is not None:
        finding.check_where(where)
    given = dict(settings) if prompt is None else {**settings, "prompt": prompt}
    usage.remark(prompt, settings)
    usage.check_settings(given)
    sources = _chosen(named, where)
    if not sources:
        return
    from . import render

    render.many(sources, given, _once(with_model, "model" in settings), output_path, run)


def _chosen(named: Sequence[str], where: str | None) -> list[Source]:
    """Without --where all of them. What cannot be read is kept, as a picture that fails."""
    from ..batch.again import Source
    from ..culling import Where, places

    if STANDARD in named and _is_rank():
        raise RequestError("Ranks cannot share standard input.", "Name a folder, or files.")
    if where is None:
        found = [Source(place.path, place.below) for place in places(named)]
        if not found:
            raise InputError("There are no pictures to render again.", "See what is in the folder or the list.")
        return found
    search = finding.Search()
    found = [Source(place.path, place.below) for place, _ in search.pictures(list(named), Where(where))]
    found += [Source(place.path, place.below) for place, _ in search.wrong]
    finding.remark(search)
    output.note(f"{len(found) - len(search.wrong)} of {search.seen} pictures are chosen.", style="dim")
    return found


def _once(with_model: Callable[[Request], Request], given: bool) -> Callable[[Request], Request]:
    """`with_model`, which is asked once for the default model and speaks of it once; `given`: there is another."""
    defaults: list[Request] = []

    def complete(request: Request) -> Request:
        if given or request.model is not None:
            return with_model(request)
        if not defaults:
            defaults.append(with_model(request))
        revision = defaults[0].revision if request.revision is None else request.revision
        return request.replaced(model=defaults[0].model, revision=revision)

    return complete


def _is_rank() -> bool:
    from ..batch import ranks

    return ranks.rank() is not None
