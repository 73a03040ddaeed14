"""`mlxdiff pull`: bring a model into the cache, and keep the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError
from ..request import Request
from . import cache, options, output

if TYPE_CHECKING:
    from rich.console import Console

    from ..hub import Plan, PlannedFile, Snapshot


def pull(
    model: Annotated[
        str | None,
        typer.Argument(help="owner/name, owner/name@revision, or an address on the hub.", show_default=False),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Precision of the weights, such as fp16. Default: the files without a variant, if there are any."
        ),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Use the mirror of a model that was removed from the hub, or do not. Default: ask.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Download existing files again.")] = False,
    token: Annotated[
        str | None, typer.Option(help="Access token of the hub, instead of HF_TOKEN.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be downloaded or removed.")] = False,
    set_default: Annotated[
        bool, typer.Option("--set-default", help="Use this model as the default for --model.")
    ] = False,
    quantize: Annotated[
        int | None,
        typer.Option("--quantize", help="Also store a copy in 8 or 4 bits, for generate --quantize."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the models in the cache.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove MODEL, or one revision of it.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove old revisions and unfinished downloads of all models.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read the files of MODEL, or of all models, and compare them with their hashes."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    json: options.Json = False,
) -> None:
    """Download MODEL into the Hugging Face cache; or list, check or clean that cache.

    Downloads only what mlxdiff loads, in one precision, and continues an earlier pull that was stopped.
    The last line is "ready" and the model's folder.
    """
    verbs = [name for name, given in _verbs(list_, remove, prune, verify).items() if given]
    if len(verbs) > 1:
        raise RequestError(f"{' and '.join(verbs)} are different commands.", "Give one of them.")
    if not verbs:
        if model is None:
            raise RequestError("No model is named.", "Name one, or give --list, --prune or --verify.")
        _bring(model, revision, variant, mirror, force, token, dry_run, set_default, quantize, json)
        return
    fetching = {
        "--variant": variant,
        "--mirror": mirror,
        "--token": token,
        "--quantize": quantize,
        "--force": force or None,
        "--set-default": set_default or None,
    }
    unfit = [name for name, value in fetching.items() if value is not None]
    if unfit:
        raise RequestError(f"{unfit[0]} does nothing beside {verbs[0]}.", "Leave one of them out.")
    if model is not None:
        model = hub_name(model, revision)
    match verbs[0]:
        case "--list":
            cache.list_models(model, json=json)
        case "--remove":
            if model is None:
                raise RequestError("No model is named.", "Name the one to remove; --list shows them.")
            cache.remove_model(model, dry_run=dry_run, yes=yes, json=json)
        case "--prune":
            if model is not None:
                raise RequestError("--prune is for the whole cache.", f"To remove {model} run: --remove {model}")
            cache.prune_models(dry_run=dry_run, yes=yes, json=json)
        case "--verify":
            cache.verify_models(model, dry_run=dry_run, yes=yes, json=json)


def hub_name(model: str, revision: str | None) -> str:
    """A model of the cache as owner/name[@revision], however it was named."""
    from .. import hub

    model = hub.canonical(model)
    return model if revision is None else f"{model}@{revision}"


def _verbs(list_: bool, remove: bool, prune: bool, verify: bool) -> dict[str, bool]:
    return {"--list": list_, "--remove": remove, "--prune": prune, "--verify": verify}


def _bring(
    model: str,
    revision: str | None,
    variant: str | None,
    mirror: bool | None,
    force: bool,
    token: str | None,
    dry_run: bool,
    set_default: bool,
    quantize: int | None,
    json: bool,
) -> None:
    from .. import hub

    Request(quantize=quantize)  # other bits are refused before anything is fetched
    model = hub.canonical(model)
    if revision is None and hub.is_local(model):
        snapshot = hub.resolve(model)
        output.note(f"{model} is {'built in' if model == hub.BUILT_IN else 'on this disk'}: nothing to fetch.")
        files: list[dict[str, Any]] = []
    else:
        removed = None
        try:
            plan = hub.plan(model, revision, variant, token=token, force=force)
        except hub.RemovedError as error:
            removed = error
            if not _take_mirror(error, mirror):
                raise
            asked = hub.parse_reference(model) or hub.HubReference(error.name)
            instead = str(replace(asked, name=error.mirror))
            plan = hub.plan(instead, revision, variant, token=token, force=force)
        files = [
            {"path": file.path, "bytes": file.size, "arrived": file.arrived, "here": file.here} for file in plan.files
        ]
        if dry_run:
            if json:
                output.say_json({"model": plan.repository, "revision": plan.commit, "files": files, "ready": False})
            else:
                show(plan, output.out_console())
            return
        show(plan, output.err_console())
        snapshot = fetch(plan, token)
        if removed is not None:
            hub.set_mirror(removed.name, removed.mirror)
            output.note(f"{removed.name} now stands for {removed.mirror}.")
        model = plan.reference
    if set_default and not dry_run:
        hub.set_default_model(model)
        output.note(f"{model} is now the default model.")
    copy = None
    if quantize is not None and not dry_run:
        from .. import quantized

        copy = quantized.store(model, quantize)
        output.note(f"{model} in {quantize} bits: {copy}")
    if json:
        said: dict[str, Any] = {
            "model": snapshot.reference,
            "revision": snapshot.revision,
            "path": str(snapshot.path),
        }
        if copy is not None:
            said["quantized"] = str(copy)
        output.say_json({**said, "files": files, "ready": True})
    else:
        output.say(f"ready {snapshot.path}")


def _take_mirror(error: Any, mirror: bool | None) -> bool:
    """Whether to take the mirror: as the option says, as was agreed before, or as is answered on a terminal."""
    from .. import hub

    if mirror is not None:
        if mirror:
            output.note(f"{error.name} was removed from the hub: taking the same files from {error.mirror}.")
        return mirror
    if hub.mirror_of(error.name) == error.mirror:
        return True
    question = f"{error.problem} Take the same files from {error.mirror}?"
    return cache.can_ask() and cache.confirmed(question, default=True)


def fetch(plan: Plan, token: str | None = None) -> Snapshot:
    """Pulls under bars: one for each file that is coming, and one for all of them.

    A file that is there, and was not read before, has a spinner while it is compared with its hash.
    """
    import logging

    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from .. import hub

    if not output.verbosity.verbose:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.err_console()) as bars:
        done = {file.path: file.arrived for file in plan.files}
        total: list[TaskID] = []
        tasks: dict[str, TaskID] = {}
        checks: list[TaskID] = []

        def checking(file: PlannedFile) -> None:
            while checks:
                bars.remove_task(checks.pop())
            checks.append(bars.add_task(f"Checking {file.path}", total=None))

        def progress(file: PlannedFile, n: int) -> None:
            while checks:
                bars.remove_task(checks.pop())
            if not total:
                total.append(bars.add_task("Total", total=plan.size))
            if file.path not in tasks:
                tasks[file.path] = bars.add_task(file.path, total=file.size, completed=n)
            bars.update(tasks[file.path], completed=n)
            done[file.path] = n
            bars.update(total[0], completed=sum(done.values()))
            if n == file.size:
                bars.print(f"{file.path} is here", markup=False, highlight=False, soft_wrap=True)
                bars.remove_task(tasks[file.path])

        snapshot = hub.pull(plan, progress, token=token, checking=checking)
        while checks:
            bars.remove_task(checks.pop())
        return snapshot


def show(plan: Plan, console: Console) -> None:
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("here already")
    for file in plan.files:
        share = f"{file.arrived / file.size:.0%}" if file.arrived > 0 else "no"
        table.add_row(Text(file.path), decimal(file.size), "yes" if file.here else share)
    console.print(table)
    console.print(
        Text(f"{plan.repository} at {plan.commit[:12]}: {decimal(plan.missing)} of {decimal(plan.size)} to fetch"),
        soft_wrap=True,
    )
