"""Defaults for settings, and named profiles of them, from the user's `config.toml`.

    steps = 30
    lora = ["pixel-art,scale=0.8"]

    [profile.fast]
    steps = 8
    sampler = "lcm"

Every name is a setting's, and every value is checked by its declaration. Options beat the profile, the profile beats
the file. Only the command line reads it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, RequestError
from ..request import SAMPLERS, Request
from ..request.declarations import nearest, setting_called, shown
from .completion import offered
from .declared import Given, settings_of

NAME = "config.toml"
PLACE, MODEL = "MLXDIFF_CONFIG", "MLXDIFF_MODEL"
MAX_BYTES = 2**20
PROFILES = "profile"
REMEDY = "Correct it; docs/config.md has examples."
OPTION, PROFILE, ENVIRONMENT, FILE, DEFAULT = "option", "profile", "environment", "config file", "default"
SET_DEFAULT = "pull --set-default"
WHAT_IS_LOADED = ("model", "revision")  # a revision is of its model


@dataclass(frozen=True)
class Config:
    """What the file holds, parsed and checked: settings by name, and those of each profile."""

    defaults: Given = field(default_factory=dict)
    profiles: Mapping[str, Given] = field(default_factory=dict)
    path: Path | None = None

    def profile(self, name: str | None) -> Given:
        """Raises RequestError for a profile that is not there."""
        if name is None:
            return {}
        if name in self.profiles:
            return self.profiles[name]
        if not self.profiles:
            where = "There is no config file" if self.path is None else f"{self.path} has no profiles"
            raise RequestError(f"There is no profile {shown(name)}: {where[0].lower()}{where[1:]}.", _how_to(name))
        raise RequestError(f"{self.path} has no profile {shown(name)}.", nearest(name, tuple(self.profiles)))


def place() -> Path:
    """The file: MLXDIFF_CONFIG, or `config.toml` in the platform's folder for a user's configuration."""
    chosen = os.environ.get(PLACE)
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_config_dir

    return Path(user_config_dir("mlxdiff"), NAME)


def read() -> Config:
    """What the file says; nothing where there is none. Raises InputError, or RequestError for a value."""
    path = place()
    if str(path) == os.devnull:
        return Config()
    from ..files import open_regular

    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get(PLACE):
            raise InputError(f"{PLACE} names {path}, and there is no such file.", "Write it, or unset it.") from None
        return Config()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The config file {path} cannot be read ({reason}).", f"Check it, or set {PLACE}.") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"The config file {path} is larger than {MAX_BYTES} bytes.", REMEDY)
    return parse(path, data)


def complete_profile(incomplete: str) -> list[str]:
    """The profiles whose names begin so, for a shell."""
    return offered(incomplete, lambda: read().profiles)


def parse(path: Path, data: bytes) -> Config:
    """The file's bytes as settings; raises InputError for what is no TOML, RequestError for what is no setting."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found]

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: byte {error.start + 1} is not UTF-8.", "Save it as UTF-8.") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(_no_toml(path, str(error), text), REMEDY) from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply.", REMEDY) from None
    profiles = values.pop(PROFILES, {})
    if not isinstance(profiles, dict) or not all(isinstance(held, dict) for held in profiles.values()):
        raise RequestError(f"{path}: {PROFILES} is no table of tables.", "Write [profile.NAME], and settings below it.")
    source = _Source(path, text)
    return Config(
        source.settings(values, ""),
        {name: source.settings(held, f"{PROFILES}.{name}") for name, held in profiles.items()},
        path,
    )


@dataclass(frozen=True)
class _Source:
    path: Path
    text: str

    def settings(self, values: Mapping[str, Any], table: str) -> dict[str, Any]:
        """The values of a table by their settings' names, checked one by one."""
        found: dict[str, Any] = {}
        known = [item for item in settings_of() if item.name != "prompt"]
        for name, value in values.items():
            where = f"{self.path}{self._line(name, table)}"
            item = setting_called(name, known)
            if item is None:
                if name == "prompt":
                    raise RequestError(f"{where}: A prompt is no default.", "Give it to the command.")
                meant = _meant(name, tuple(each.name for each in known))
                raise RequestError(f"{where}: There is no setting {shown(name)}.", meant)
            if item.name in found:
                raise RequestError(f"{where}: {item.name} is there twice.", "Leave one out.")
            try:
                checked = Request(**{item.name: value})  # type: ignore[arg-type]
            except RequestError as error:
                raise RequestError(f"{where}: {error.problem}", error.remedy) from None
            found[item.name] = getattr(checked, item.name)
            if item.name == "sampler" and checked.schedule is not None:  # "DPM++ 2M Karras" says both
                found.setdefault("schedule", checked.schedule)
        return found

    def _line(self, name: str, table: str) -> str:
        """`, line 3`, where a line begins with the name; nothing for a name that is written in another way."""
        here = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[+\s*([^\]]*?)\s*\]+", line):
                here = header[1].replace('"', "").replace("'", "")
                if here == ".".join(part for part in (table, name) if part):
                    return f", line {number}"
            elif here == table and re.match(rf"""\s*["']?{re.escape(name)}["']?\s*[=.]""", line):
                return f", line {number}"
        return ""


@dataclass(frozen=True)
class Layers:
    """What holds for a command where its options say nothing: the file below the profile.

    `profile` is what the profile holds, if one was chosen.
    """

    config: Config
    profile: Given

    def below(self, options: Given) -> dict[str, Any]:
        """The settings of a request: the file's, then the profile's, then the options'.

        The file's model is left to `default_model`, which MLXDIFF_MODEL beats.
        """
        found = {name: value for name, value in self.config.defaults.items() if name not in WHAT_IS_LOADED}
        for layer in (self.profile, options):
            if "model" in layer:
                found.pop("revision", None)
            sampler = layer.get("sampler")
            if isinstance(sampler, str) and sampler not in SAMPLERS:
                found.pop("schedule", None)
            found |= layer
        return found

    def default_model(self) -> tuple[str, str | None, str]:
        """The model where neither an option nor a profile names one, its revision, and who says so."""
        from .. import hub

        if os.environ.get(MODEL):
            return hub.default_model(), None, ENVIRONMENT
        defaults = self.config.defaults
        if "model" in defaults:
            return defaults["model"], defaults.get("revision"), FILE
        model = hub.default_model()
        return model, None, DEFAULT if model == hub.BUILT_IN else SET_DEFAULT

    def origin(self, name: str) -> tuple[Any, str]:
        """(value, who says so) of a setting that no option gives; None where only the default holds."""
        if name in self.profile:
            return self.profile[name], PROFILE
        if name in WHAT_IS_LOADED:
            if "model" in self.profile:
                return None, DEFAULT
            model, revision, said = self.default_model()
            return (model, said) if name == "model" else (revision, DEFAULT if revision is None else said)
        if name in self.config.defaults:
            return self.config.defaults[name], FILE
        return None, DEFAULT


def layers(profile: str | None = None) -> Layers:
    """Of the user's file, and the profile of this name; raises InputError or RequestError."""
    config = read()
    return Layers(config, config.profile(profile))


def _no_toml(path: Path, message: str, text: str) -> str:
    """tomllib ends its messages with `(at line 3, column 5)`, or `(at end of document)`."""
    found = re.fullmatch(r"(.*?) \(at (?:line (\d+), column (\d+)|.*)\)", message, re.DOTALL)
    what, line, column = found.groups() if found is not None else (message, None, None)
    at = f"line {max(1, len(text.splitlines()))}" if line is None else f"line {line}"
    return f"{path}, {at}: It is not TOML ({what}{'' if column is None else f', column {column}'})."


def _meant(name: str, names: tuple[str, ...]) -> str:
    close = nearest(name.replace("-", "_"), names)
    first = close.split("? ")[0]
    return f"{first}? `mlxdiff info --settings` lists them." if "? " in close else "See `mlxdiff info --settings`."


def _how_to(name: str) -> str:
    word = name if re.fullmatch(r"[\w-]{1,40}", name) else "fast"
    return f"Write [profile.{word}] into {place()}, and settings below it."
