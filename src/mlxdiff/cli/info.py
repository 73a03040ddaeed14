"""`mlxdiff info`: this machine, models, what pictures were made with, and what there is to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MlxdiffError, ModelNotFoundError, RequestError, UnsupportedError
from ..inputs import open_input
from ..picture_files import PICTURE_SUFFIXES, TEXT_FILES, picture_files
from ..request import PROMPT_SYNTAXES, Request, declared
from ..request.structured import Structured
from . import check as checking
from . import completion, config, finding, listing, options, output, picture_pages, prompt_pages, usage

FILE_SUFFIXES = (*PICTURE_SUFFIXES, ".safetensors", *TEXT_FILES)
EXAMPLES = """
mlxdiff info apple.png
mlxdiff info *.png --json
mlxdiff info out/ --where "steps > 20 and seed < 100"
mlxdiff info out/ --where "lora contains 'ink'" -0 | xargs -0 -I{} cp {} keep/
mlxdiff info stabilityai/sdxl-turbo
mlxdiff info style.safetensors
mlxdiff info --check out/
mlxdiff info --settings
mlxdiff info --prompt "a (red:1.3) apple"
"""


def info(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            help="A model; a LoRA, a picture, a file of latents, or a .txt of A1111's parameters. Any number of them."
            " For a list of pictures: files, folders, patterns in quotes, and - for paths on standard input. --check:"
            " files and folders.",
            metavar="MODEL_OR_FILE...",
            show_default=False,
            autocompletion=completion.models_or_files,
        ),
    ] = None,
    settings: Annotated[
        bool,
        typer.Option("--settings", help="List every setting: option, value and who gave it, values, default, help."),
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --settings: the values with this profile of config.toml."),
    ] = None,
    samplers: Annotated[
        bool, typer.Option("--samplers", help="List the samplers, and their names in other programs.")
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(help="Show how a prompt is read: chunks, tokens, weights, and what is cut."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="REF", help="With --prompt: the model.")] = None,
    prompt_syntax: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=f"With --prompt: {', '.join(PROMPT_SYNTAXES)}. Default: {PROMPT_SYNTAXES[0]}."
        ),
    ] = None,
    negative: Annotated[bool, typer.Option("--negative", help="With --prompt: read it as a negative prompt.")] = False,
    where: options.Where = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="List pictures by a setting, or by path, name, date, bytes; -NAME: the largest first.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="INTEGER", help="List so many at most.", rich_help_panel=options.OUTPUT, show_default=False
        ),
    ] = None,
    paths: Annotated[
        bool, typer.Option("--paths", help="List the paths alone, one a line.", rich_help_panel=options.OUTPUT)
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="List the paths alone, each ending in NUL, for xargs -0.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check every picture in a folder: whole, true to its metadata and its journal. Exit code 1 if not.",
        ),
    ] = False,
    rerender: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="INTEGER",
            help="With --check: render so many of the pictures again, always the same ones, and compare.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the device, versions and cache; or a MODEL; or the settings that made a FILE.

    Of a folder of pictures, and with --where, --sort, --limit, --paths or --null: list the pictures.
    """
    named = [] if subjects is None else subjects
    wanted = (("--settings", settings), ("--samplers", samplers), ("--prompt", prompt is not None))
    lists = [name for name, is_wanted in wanted if is_wanted]
    if rerender is not None and not check:
        raise RequestError("--rerender says how many pictures --check renders again.", "Add --check.")
    chosen = where is not None or sort is not None or limit is not None or paths or null
    if check:
        if lists or chosen or profile is not None or model is not None or prompt_syntax is not None or negative:
            raise RequestError("--check looks at pictures, and at nothing else.", "Give it alone, with a folder.")
        checking.check(named, rerender, json=json)
        return
    if lists and (named or len(lists) > 1):
        does = "is about one text" if lists[0] == "--prompt" else "lists the same"
        raise RequestError(f"{lists[0]} {does}, whatever is beside it.", "Give it alone.")
    if prompt is None and (model is not None or prompt_syntax is not None or negative):
        raise RequestError(
            "--model, --prompt-syntax and --negative say how --prompt is read, and there is none.",
            "Name a model without an option to see what it is.",
        )
    if profile is not None and not settings:
        raise RequestError("--profile says which values --settings shows.", "Add --settings.")
    if chosen:
        if lists:
            raise RequestError(f"{lists[0]} is about no pictures.", "Give it alone.")
        form = finding.form(json=json, paths=paths, null=null)
        if not finding.show(named, where, sort, limit, form, picture_pages.described):
            raise typer.Exit(1)
    elif settings:
        listing.show_settings(config.layers(profile), json=json)
    elif samplers:
        listing.show_samplers(json=json)
    elif prompt is not None:
        prompt_pages.tell_prompt(prompt_pages.about_prompt(prompt, model, prompt_syntax, negative=negative), json=json)
    elif not named:
        tell(about_machine(), json=json)
    else:
        about_all(named, json=json)


def about_all(subjects: list[str], *, json: bool) -> None:
    """One after the other; what is wrong with one of several is said, and ends in exit code 1."""
    failed = False
    for i, subject in enumerate(subjects):
        try:
            is_list = holds_pictures(subject)
            values = {} if is_list else about(subject)
        except MlxdiffError as error:
            if len(subjects) == 1:
                raise
            output.report(error)
            failed = True
            continue
        if i > 0 and not json:
            output.say("")
        if is_list:
            form = finding.form(json=json, paths=False, null=False)
            failed |= not finding.show([subject], None, None, None, form, picture_pages.described)
        else:
            tell(values, json=json)
    if failed:
        raise typer.Exit(1)


def about(subject: str) -> dict[str, Any]:
    path = Path(subject)
    usage.check_files([path])
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_file = False
    if is_file:
        return about_file(path)
    if is_folder_of_adapter(path):
        return about_adapter(path)
    if path.suffix.lower() in FILE_SUFFIXES and "://" not in subject:
        with open_input(path):  # which says what is there instead
            return about_file(path)
    try:
        return about_model(subject)
    except (ModelNotFoundError, UnsupportedError):
        adapter = adapter_named(subject)
        if adapter is None:
            raise
    return about_adapter(adapter)


def about_machine() -> dict[str, Any]:
    from .. import backend, hub
    from .cache import described

    models = [described(model) for model in hub.cached_models()]
    return {**backend.describe(), "default model": config.layers().default_model()[0], "models": models}


def about_model(reference: str) -> dict[str, Any]:
    from ..pipeline import StableDiffusion

    sd = StableDiffusion(reference)
    checkpoint, defaults = sd.checkpoint, sd.defaults
    return {
        "model": sd.snapshot.reference,
        "revision": sd.snapshot.revision,
        "path": str(sd.snapshot.path),
        "family": sd.family.name,
        "pipeline": checkpoint.index.class_name,
        "size": f"{defaults.width}x{defaults.height}",
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "scheduler": checkpoint.scheduler.get("_class_name"),
        "prediction_type": checkpoint.scheduler.get("prediction_type", "epsilon"),
        "latents": f"{checkpoint.vae.latent_channels} channels, {checkpoint.scale_factor} pixels a cell",
        "vae": checkpoint.index.components["vae"].class_name,
        "components": sorted(checkpoint.index.components),
    }


def about_file(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in TEXT_FILES:
        return picture_pages.about_text(path)
    if path.suffix.lower() != ".safetensors":
        return picture_pages.about_picture(path)
    from ..latents import holds_latents

    if holds_latents(path):
        return picture_pages.about_latents(path)
    from .. import adapters
    from ..steering import ip_adapters

    pictures = ip_adapters.describe(path)
    if pictures is not None:
        return pictures
    if adapters.is_adapter(path):
        return about_adapter(path)
    from .. import upscaling

    return upscaling.described(path) if upscaling.is_upscaler(path) else about_model(str(path))


def is_folder_of_adapter(path: Path) -> bool:
    """Whether a path is a folder that PEFT or diffusers wrote a LoRA into, and not a model."""
    try:
        if not path.is_dir() or (path / "model_index.json").exists():
            return False
    except (OSError, ValueError):
        return False
    from ..adapters import is_adapter

    return is_adapter(path)


def holds_pictures(subject: str) -> bool:
    """Whether it is a folder that holds pictures, itself or in folders below, and no model and no LoRA.

    Raises InputError for a folder that cannot be read.
    """
    path = Path(subject)
    try:
        if not subject or not path.is_dir() or (path / "model_index.json").exists() or is_folder_of_adapter(path):
            return False
    except (OSError, ValueError):
        return False
    return any(picture_files(path))


def adapter_named(name: str) -> Path | None:
    """The LoRA that is found by a name or hub id, as `--lora` finds it; None for none."""
    from .. import hub
    from ..adapters import is_adapter

    try:
        path = hub.find_part(name, "lora")
    except MlxdiffError:
        return None
    return path if is_adapter(path) else None


def about_adapter(path: Path) -> dict[str, Any]:
    """What a LoRA is, and the hashes by which other programs know it."""
    from .. import hub
    from ..adapters import describe

    values = describe(path)
    hashes = hub.hashes_of(Path(values["file"]))
    return {**values, "sha256": hashes.file, "autov2": hashes.autov2, "autov3": hashes.autov3}


def tell(values: Mapping[str, Any], *, json: bool) -> None:
    """One JSON object, or a table of names and values in which what is nested has a line each."""
    if json:
        output.say_json(values)
    else:
        output.table(table_rows(values))


def table_rows(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) of each line that people read."""
    for name, value in values.items():
        if name == "request":
            yield name, ""
            yield from ((f"  {key}", _setting(key, item)) for key, item in value.items())
        elif isinstance(value, dict):
            yield name, ""
            shown = _setting if name == "settings" else lambda _, item: in_words(item)
            yield from ((f"  {key}", shown(key, item)) for key, item in value.items())
        elif name == "models":
            yield name, "" if value else "none"
            yield from (("", _model(item)) for item in value)
        else:
            yield name, in_words(value)


def _setting(name: str, value: Any) -> str:
    """A setting's value; a structured one as its option is written."""
    kind = next((item.kind for item in declared(Request) if item.name == name), None)
    return kind.show(kind.check(name, value)) if isinstance(kind, Structured) else in_words(value)


def in_words(value: Any) -> str:
    """A value of JSON for people: no brackets and quotes of Python."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={in_words(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(in_words(item) for item in value) or "none"
    return str(value)


def _model(model: Mapping[str, Any]) -> str:
    refs = "".join(f", {ref}" for ref in model["refs"])
    state = "" if model["complete"] else ", not complete"
    return f"{model['model']}  {size_text(model['bytes'])}{refs}{state}"


def size_text(n_bytes: int) -> str:
    """`32.5 MB`, in powers of 1000 as the hub counts."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
