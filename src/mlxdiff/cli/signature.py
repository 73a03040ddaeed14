"""Signatures as values: Typer reads a function's parameters, and here one of them becomes many options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

Command = Callable[..., None]


def option(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """A parameter that Typer makes an option of."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def expanded(
    command: Command, place: str, options: Iterable[inspect.Parameter], collect: Callable[[Mapping[str, Any]], Any]
) -> Command:
    """The command with these options for its parameter `place`, which receives what `collect` makes of their values."""
    options = list(options)
    parameters: list[inspect.Parameter] = []
    for parameter in parameters_of(command):
        parameters += options if parameter.name == place else [parameter]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        values = {parameter.name: arguments.pop(parameter.name) for parameter in options}
        command(**{place: collect(values)}, **arguments)

    return signed(run, parameters)


def parameters_of(command: Command) -> list[inspect.Parameter]:
    """The function's parameters as keywords, with annotations that are values and not texts."""
    hints = get_type_hints(command, include_extras=True)
    return [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
    ]


def signed(command: Command, parameters: Iterable[inspect.Parameter]) -> Command:
    """The function with the signature that Typer is to read."""
    signature = inspect.Signature(list(parameters))
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    command.__dict__.pop("__wrapped__", None)  # Typer would look for names there
    return command
