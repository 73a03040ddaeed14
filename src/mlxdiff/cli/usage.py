"""Wrong usage in two sentences, as all errors are: what is wrong, and what was probably meant."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import typer

from .. import spelling
from ..batch.templates import first_mark
from ..errors import InputError, RequestError
from ..request import Request
from ..request.declarations import declared, shown
from . import output

CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # ClickException: of Click, or of Typer's own copy of it
CLOSE = 0.75  # of difflib's ratio: `--lora` is not `--force`, and `--stpes` is `--steps`


def in_words(error: Any, arguments: Sequence[str], commands: Sequence[str]) -> RequestError:
    """Click's usage error as ours. Classes are recognized by name: Typer has its own copy of Click's since 0.26."""
    context = error.ctx
    name = next((word for word in arguments if word in commands), None)
    message = " ".join(error.format_message().split())
    see = f"See `mlxdiff {name} --help`." if name else "See `mlxdiff --help`."
    kind = type(error).__name__
    if kind == "NoSuchOption":
        meant = _option_meant(error.option_name, context, name, arguments)
        return RequestError(f"No such option: {error.option_name}.", meant or see)
    if "unexpected extra argument" in message and context is not None:
        extra = re.search(r"arguments?(?:\(s\))? \((.*)\)", message)
        words = extra[1] if extra else ""
        return RequestError(f"There is more than the command takes: {words}.", see)
    if "No such command" in message:
        return _command_meant(arguments, context)
    if kind == "BadOptionUsage" and "requires an argument" in message:
        return RequestError(f"{error.option_name} has no value.", f"Put one behind it. {see}")
    if kind == "MissingParameter" and error.param is not None:
        return RequestError(f"{error.param.metavar or error.param.name} is missing.", see)
    if kind == "BadParameter" and error.param is not None:
        return _bad_value(error.param, arguments, see)
    return RequestError(message if message.endswith(".") else f"{message}.", see)


def several_prompts(words: Sequence[str]) -> RequestError:
    """The error about more words than one prompt, which was probably not quoted."""
    rest = " ".join(words[1:])
    if output.verbosity.quiet and rest in ("8", "4"):
        return RequestError(f"-q is --quiet, and {rest} is left over.", f"Write --quantize {rest}.")
    return RequestError(f"There are words after the prompt: {rest}.", f"Quote it: {_generate(' '.join(words))}")


def _bad_value(param: Any, arguments: Sequence[str], see: str) -> RequestError:
    """A value that Typer refused: of the options that are no settings, which are whole numbers and numbers."""
    name = max(param.opts, key=len)
    given = [word.partition("=")[2] for word in arguments if word.startswith(f"{name}=")]
    given += [after for word, after in pairwise(arguments) if word in param.opts]
    value = f" is {shown(given[-1])}" if given else " has a value that it cannot have"
    low = getattr(param, "min", None)
    high = getattr(param, "max", None)
    least = "" if low is None else f" of at least {low}" if high is None else f" from {low} to {high}"
    kind = {"INTEGER": "whole number", "FLOAT": "number"}.get(param.metavar or "")
    choices = (param.metavar or "").split("|")
    if len(choices) > 1:
        return RequestError(f"{name}{value}.", f"It is one of {', '.join(choices)}.")
    return RequestError(f"{name}{value}.", f"It is a {kind}{least}." if kind else see)


def _option_meant(given: str, context: Any, name: str | None, arguments: Sequence[str]) -> str | None:
    whole = next((word for word in arguments if word.startswith(given)), given)
    if name == "generate" and (" " in whole or (not given.startswith("--") and len(whole) > 2)):
        return f"Put -- before a prompt that begins with a dash: {_generate(whole)}"
    params = [] if context is None else context.command.get_params(context)
    long = [option for param in params for option in param.opts if option.startswith("--")]
    near = spelling.nearest(given.partition("=")[0], long, cutoff=CLOSE) if given.startswith("--") else []
    return spelling.question(near) or None


def _command_meant(arguments: Sequence[str], context: Any) -> RequestError:
    names = list(context.command.commands)
    typed = next((word for word in arguments if not word.startswith("-")), "")
    problem = f"There is no command {shown(typed)}."
    meant = spelling.question(spelling.nearest(typed, names))
    if meant:
        return RequestError(problem, meant)
    if " " in typed:
        return RequestError(problem, f"To render a prompt: {_generate(typed)}")
    return RequestError(problem, f"The commands are {', '.join(names)}.")


def _generate(prompt: str) -> str:
    dashes = "-- " if prompt.startswith("-") else ""
    quoted = f'"{prompt}"' if not set(prompt) & set('"$`\\!') else shlex.quote(prompt)
    return f"mlxdiff generate {dashes}{quoted}"


def remark(prompt: str | None, given: Mapping[str, Any], *, expands: bool = False) -> None:
    """Warns of what is possible, and seldom meant. `expands`: braces and wildcards in prompts are drawn."""
    mark = None if prompt is None or expands else first_mark(prompt)
    if mark is not None:
        output.warn(f"{mark} in the prompt is text without --wildcards.")
    negative = str(given.get("negative_prompt", "")).strip()
    if negative.isdecimal():
        output.warn(f"The negative prompt is {negative!r}. For {negative} pictures give --n-images {negative}.")
    if prompt is not None and re.match(r"https?://(huggingface\.co|hf\.co)/\S+$", prompt.strip()):
        output.warn("The prompt is the address of a model. To render with it give --model, and a prompt.")


def check_files(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Raises InputError for a pipe, a device or a socket: reading one may wait for ever, or never end."""
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            continue  # who reads it says what is wrong
        for is_one, what in (
            (stat.S_ISFIFO, "a pipe"),
            (stat.S_ISCHR, "a device"),
            (stat.S_ISBLK, "a device"),
            (stat.S_ISSOCK, "a socket"),
        ):
            if is_one(mode):
                raise InputError(f"{os.fspath(path)} is {what}, not a file.", "Give a regular file.")


def check_settings(given: Mapping[str, Any]) -> None:
    """`check_files` of the files that settings name."""
    kinds = {item.name: item.kind.describe()["type"] for item in declared(Request)}
    named = [name for name in given if kinds[name] in ("picture", "reference") and isinstance(given[name], str)]
    check_files([given[name] for name in named])
