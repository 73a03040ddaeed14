"""`mlxdiff info`: this machine, models, what pictures were made with, and what there is to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, MlxdiffError, ModelNotFoundError, RequestError, UnsupportedError
from ..request import PROMPT_SYNTAXES, Request, declared
from ..structured import Structured
from . import completion, config, listing, options, output, usage

FILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".safetensors", ".txt", ".json")
EXAMPLES = """
mlxdiff info apple.png
mlxdiff info *.png --json
mlxdiff info stabilityai/sdxl-turbo
mlxdiff info style.safetensors
mlxdiff info --settings
mlxdiff info --prompt "a (red:1.3) apple"
"""


def info(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            help="A model; a LoRA, a picture, a file of latents, or a .txt of A1111's parameters. Any number of them.",
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
    json: options.Json = False,
) -> None:
    """Show the device, versions and cache; or a MODEL; or the settings that made a FILE."""
    named = [] if subjects is None else subjects
    wanted = (("--settings", settings), ("--samplers", samplers), ("--prompt", prompt is not None))
    lists = [name for name, is_wanted in wanted if is_wanted]
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
    if settings:
        listing.show_settings(config.layers(profile), json=json)
    elif samplers:
        listing.show_samplers(json=json)
    elif prompt is not None:
        tell_prompt(about_prompt(prompt, model, prompt_syntax, negative=negative), json=json)
    elif not named:
        tell(about_machine(), json=json)
    else:
        about_all(named, json=json)


def about_all(subjects: list[str], *, json: bool) -> None:
    """One after the other; what is wrong with one of several is said, and ends in exit code 1."""
    failed = False
    for i, subject in enumerate(subjects):
        try:
            values = about(subject)
        except MlxdiffError as error:
            if len(subjects) == 1:
                raise
            output.report(error)
            failed = True
            continue
        if i > 0 and not json:
            output.say("")
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
        raise InputError(f"There is no file {subject}.", "Check its name and folder.")
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


def about_prompt(text: str, model: str | None, syntax: str | None, *, negative: bool) -> dict[str, Any]:
    """What a prompt tells a model. Reads its tokenizer and configs, and no weight."""
    from ..pipeline import StableDiffusion
    from ..prompt_report import prompt_report

    layers = config.layers()
    default, revision, _ = layers.default_model()
    if model is not None:
        default, revision = model, None
    syntax = layers.config.defaults.get("prompt_syntax") if syntax is None else syntax
    request = Request(text, model=default, revision=revision, prompt_syntax=syntax)
    sd = StableDiffusion.open(request.wanted_model)
    return prompt_report(sd.resolve(request), sd.networks.tokenizers[0], negative=negative)


def tell_prompt(values: Mapping[str, Any], *, json: bool) -> None:
    """One JSON object, or for each part of the prompt and each stretch of the run its chunks and their tokens."""
    if json:
        output.say_json(values)
        return
    calls = "" if values["calls"] == values["steps"] else f", {values['calls']} calls of the network"
    rows = [
        ("model", values["model"]),
        ("prompt syntax", values["prompt_syntax"]),
        ("steps", f"{values['steps']}{calls}"),
    ]
    rows += [("LoRA", lora) for lora in values["lora"]]
    for i, part in enumerate(values["parts"], start=1):
        if len(values["parts"]) > 1 or part["weight"] != 1:
            rows.append((f"part {i}", f"weight {part['weight']:g}"))
        for entry in part["entries"]:
            rows += _entry(entry, alone=len(part["entries"]) == 1)
    rows += [("left out", thing) for thing in values["left_out"]]
    output.table(rows)


def _entry(entry: Mapping[str, Any], *, alone: bool) -> Iterator[tuple[str, str]]:
    from ..prompt_report import as_text

    if not alone:
        first, last = entry["first_call"], entry["last_call"]
        yield ("never" if first is None else f"calls {first} to {last}" if first < last else f"call {first}"), ""
    for i, chunk in enumerate(entry["chunks"], start=1):
        weight = "" if chunk["weight"] == 1 else f", weight {chunk['weight']:.4g}"
        tokens = f"{len(chunk['tokens'])} of {chunk['room']} tokens{weight}"
        yield f"chunk {i}", "\n".join(filter(None, (tokens, as_text(chunk["tokens"]))))
    if entry["cut"]:
        yield "cut", entry["cut"]


def about_file(path: Path) -> dict[str, Any]:
    from ..metadata import TEXT_FILES

    if path.suffix.lower() in TEXT_FILES:
        return about_text(path)
    if path.suffix.lower() != ".safetensors":
        return about_picture(path)
    from ..latents import holds_latents

    if holds_latents(path):
        return about_latents(path)
    from .. import adapters, ip_adapters

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


def about_text(path: Path) -> dict[str, Any]:
    """A text of A1111's parameters, as the request that it is read as."""
    from ..metadata import request_from_file

    return {"file": str(path), "format": "text"} | made_with(request_from_file(path), None)


def about_picture(path: Path) -> dict[str, Any]:
    from ..metadata import read_picture

    found = read_picture(path)
    for remark in found.notes:
        output.note(f"{path}: {remark}", style="yellow")
    values: dict[str, Any] = {"file": str(path), "format": found.format, "size": f"{found.size[0]}x{found.size[1]}"}
    if found.sheet is not None:
        values |= {"sheet": found.sheet.described, "again": found.sheet.remedy}
    return values | made_with(found.request, found.parameters) | made_elsewhere(path, found)


def made_elsewhere(path: Path, found: Any) -> dict[str, Any]:
    """What another program's texts ask for, and what of it is not used."""
    from ..recipes import sayings

    if found.request is not None or found.sheet is not None:
        return {}
    try:
        recipe = found.recipe()
    except MlxdiffError as error:
        output.note(f"{path}: {error}", style="yellow")
        return {}
    if recipe is None:
        return {}
    for saying in sayings(recipe):
        output.note(f"{path}: {saying}", style="yellow")
    return {"program": recipe.program, "settings": dict(recipe.settings)}


def about_latents(path: Path) -> dict[str, Any]:
    from ..latents import read_info

    saved = read_info(path)
    return {"file": str(path), "shape": list(saved.shape)} | made_with(saved.request, None)


def made_with(request: Any, parameters: str | None) -> dict[str, Any]:
    import json

    values: dict[str, Any] = {}
    if request is not None:
        values["request"] = json.loads(request.to_json())
    if parameters is not None:
        values["parameters"] = parameters
    return values


def tell(values: Mapping[str, Any], *, json: bool) -> None:
    """One JSON object, or a table of names and values in which what is nested has a line each."""
    if json:
        output.say_json(values)
    else:
        output.table(_rows(values))


def _rows(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name == "request":
            yield name, ""
            yield from ((f"  {key}", _setting(key, item)) for key, item in value.items())
        elif isinstance(value, dict):
            yield name, ""
            yield from ((f"  {key}", in_words(item)) for key, item in value.items())
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
