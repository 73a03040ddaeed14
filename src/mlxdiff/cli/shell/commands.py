"""The commands of the shell as a table. Beside them every setting is one, by its declared name: `/steps 20`."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ... import spelling
from ...batch.named_options import unquoted
from ...errors import RequestError
from ...picture_files import TEXT_FILES
from ...request.declarations import GROUPS, Setting, Whole, shown
from ...request.kinds import Seeds
from ...request.pictures import PictureSource
from .. import config, output, usage, viewer
from ..declared import default_of, help_text, metavar
from .completion import PICTURES, Found, of_files, of_nothing, of_words
from .state import (
    DEFAULT,
    SETTINGS,
    given_value,
    rows,
    setting_named,
    shown_value,
    typed_name,
)

if TYPE_CHECKING:
    from .session import Session

MOST_AGAIN = 1000
LAST = "last"  # as a seed: that of the last picture; as a picture: that one
RECORDS = (*PICTURES, *TEXT_FILES)  # files that say how a picture was made
INTRODUCTION = (
    "A line is a prompt: a red apple. {red|green} draws a word, <lora:NAME:0.8> takes a LoRA, and options for this line"
    " alone stand at its end: a red apple --steps 20. Of pasted lines each is a prompt. Ctrl-C stops a picture. Tab"
    " completes commands, settings, values, files and names."
)


class Leave(Exception):
    """The shell is to end."""


@dataclass(frozen=True)
class Command:
    """`usage` is what follows the name; `run` gets the session and that text."""

    usage: str
    help: str
    run: Callable[[Session, str], None]
    complete: Callable[[str], Found] = of_nothing


def perform(session: Session, line: str) -> None:
    """Does what a line that begins with a slash says. Raises MlxdiffError, and Leave."""
    found = re.fullmatch(r"/\s*([^\s=]*)\s*=?\s*(.*)", line.strip(), re.DOTALL)
    assert found is not None
    name, text = found[1].lower(), found[2].strip()
    command = COMMANDS.get(ALIASES.get(name, name))
    item = setting_named(name) if name else None
    if command is not None:
        command.run(session, text)
    elif item is None:
        raise RequestError(f"There is no command {shown('/' + found[1])}.", _nearest(name))
    elif text:
        if text.lower() == LAST and isinstance(item.kind, Seeds):
            text = str(session.last_seed())
        elif text.lower() == LAST and isinstance(item.kind, PictureSource):
            text = str(session.last_picture())
        session.change(session.state.with_settings(given_value(session.state.request, item, text)))
    else:
        _tell_setting(session, item)


def _tell_setting(session: Session, item: Setting) -> None:
    value = shown_value(session.state.request, item)
    if value is None:
        filled = session.filled_in(item)
        value = default_of(item) if filled is None or filled in default_of(item) else f"{default_of(item)} ({filled})"
    output.answer(f"{typed_name(item)}: {value}")
    output.answer(f"/{typed_name(item)} {metavar(item)}: {help_text(item)}", style="dim")


def _again(session: Session, text: str) -> None:
    session.again(Whole(1, MOST_AGAIN).parse("/again", text) if text else 1)


def _repeat(session: Session, text: str) -> None:
    del text
    session.repeat()


def _from(session: Session, text: str) -> None:
    from ...metadata import request_from_file

    if not text:
        raise RequestError("/from names no file.", "Name a picture: /from apple.png")
    path = Path(_path(text))
    usage.check_files([path])
    session.take_over(request_from_file(path))


def _help(session: Session, text: str) -> None:
    del session
    names = text.removeprefix("/").split()
    for name in names:
        item, command = setting_named(name), COMMANDS.get(ALIASES.get(name, name))
        if command is not None:
            output.answer(f"/{name} {command.usage}".rstrip() + f": {command.help}")
        elif item is not None:
            output.answer(f"/{typed_name(item)} {metavar(item)}: {help_text(item)}")
        else:
            raise RequestError(f"There is no command {shown('/' + name)}.", _nearest(name))
    if names:
        return
    for line in textwrap.wrap(INTRODUCTION, output.columns() - 1, break_on_hyphens=False):
        output.answer(line)
    output.answer("")
    table = [(f"/{name} {command.usage}".rstrip(), command.help) for name, command in COMMANDS.items()]
    setting = ("/SETTING [VALUE]", f"Set a setting for later lines, or show it. /SETTING {DEFAULT} unsets it.")
    last = (f"/seed {LAST}, /image {LAST}", "Take the seed of the last picture, or begin with that picture.")
    _table([setting, last, *table])
    output.answer("")
    output.answer("Settings, which /help SETTING explains:")
    groups = {group: [typed_name(item) for item in SETTINGS if item.group == group] for group in GROUPS}
    _table([(group, ", ".join(names)) for group, names in groups.items() if names])


def _info(session: Session, text: str) -> None:
    del text
    from ..info import table_rows
    from ..picture_pages import about_picture

    _table(list(table_rows(about_picture(session.last_picture()))))


def _open(session: Session, text: str) -> None:
    del text
    viewer.show([session.last_picture()])


def _output(session: Session, text: str) -> None:
    if text:
        session.change(replace(session.state, output=None if text == DEFAULT else _path(text)))
    else:
        output.answer(f"output: {session.state.output or 'here, named after the prompt and the seed'}")


def _preview(session: Session, text: str) -> None:
    if text:
        if text.lower() not in ("on", "off"):
            raise RequestError(f"/preview {shown(text)} is neither on nor off.", "Write /preview on, or /preview off.")
        session.change(replace(session.state, preview=text.lower() == "on"))
    else:
        output.answer(f"preview: {'on' if session.state.preview else 'off'}")


def _profile(session: Session, text: str) -> None:
    found = config.read()
    if text:
        session.change(session.state.with_settings(found.profile(text)))
    else:
        output.answer(f"profiles: {', '.join(found.profiles) or 'none'}")


def _quit(session: Session, text: str) -> None:
    del session, text
    raise Leave


def _reset(session: Session, text: str) -> None:
    start, request = session.start, session.state.request
    if not text:
        session.change(start)
        return
    values = {}
    for name in text.replace("/", " ").split():
        item = setting_named(name)
        if item is None:
            raise RequestError(f"There is no setting {shown(name)}.", _nearest(name))
        values |= {item.name: getattr(start.request, item.name)}
    session.change(replace(session.state, request=request.replaced(**values)))


def _show(session: Session, text: str) -> None:
    del text
    _table(rows(session.state, shows=session.start.preview))


def _undo(session: Session, text: str) -> None:
    del text
    session.undo()


def _wildcards(session: Session, text: str) -> None:
    if text:
        session.change(replace(session.state, wildcards=None if text == DEFAULT else Path(_path(text))))
    else:
        output.answer(f"wildcards: {session.state.wildcards or 'none'}")


def _path(text: str) -> str:
    """A path without quotation marks, and with the user's folder for ~."""
    return os.path.expanduser(unquoted(text))


def _table(pairs: list[tuple[str, str]]) -> None:
    for line in output.table_lines(pairs, None, output.columns()):
        output.answer(line)


def _nearest(name: str) -> str:
    known = [*COMMANDS, *ALIASES, *map(typed_name, SETTINGS)]
    near = [f"/{each}" for each in spelling.nearest(name.replace("_", "-"), known)]
    return spelling.question(near, "/help lists the commands; a prompt does not begin with a slash.")


COMMANDS = {
    "again": Command("[N]", "Render the last prompt once more, or N times, each with a new seed.", _again),
    "repeat": Command("", "Render the last prompt once more, with the seed that is set.", _repeat),
    "from": Command(
        "FILE", "Take the settings, seed and prompt of a picture, or of a .txt of A1111's.", _from, of_files(RECORDS)
    ),
    "show": Command("", "Show the settings that are not at their default.", _show),
    "reset": Command(
        "[SETTING ...]",
        "Set settings, or all, back to what they were at the start.",
        _reset,
        of_words(map(typed_name, SETTINGS)),
    ),
    "undo": Command("", "Undo the last change of settings.", _undo),
    "preview": Command("[on|off]", "Show pictures in this terminal as they emerge.", _preview, of_words(("on", "off"))),
    "output": Command("[PATH]", "Write later pictures there: a folder, or a template of names.", _output, of_files()),
    "wildcards": Command("[DIR]", "Draw __name__ in prompts from DIR/name.txt.", _wildcards, of_files()),
    "profile": Command(
        "[NAME]",
        "Take the settings of a profile in config.toml.",
        _profile,
        lambda text: (0, config.complete_profile(text)),
    ),
    "info": Command("", "Show what the last picture was made with.", _info),
    "open": Command("", "Open the last picture in the system's viewer.", _open),
    "help": Command("[NAME]", "Explain a command or a setting, or list all.", _help),
    "quit": Command("", "Leave, as Ctrl-D does.", _quit),
}
ALIASES = {"exit": "quit", "q": "quit", "?": "help", "h": "help"}
