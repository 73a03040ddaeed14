"""`mlxdiff pull`: bring a model into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, output

if TYPE_CHECKING:
    from rich.console import Console

    from ..hub import Plan, PlannedFile, Snapshot


def pull(
    model: Annotated[str, typer.Argument(help="Id on the hub: owner/name or owner/name@revision.", metavar="MODEL")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Precision of the weights, such as fp16. Default: the plain ones if there are any."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be fetched.")] = False,
    set_default: Annotated[
        bool, typer.Option("--set-default", help="Use this model from now on when none is named.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Bring MODEL into the Hugging Face cache, which every tool shares.

    Fetches only what mlxdiff loads, in one precision. The last line is "ready" and the model's folder.
    """
    from .. import hub

    if revision is None and hub.is_local(model):
        snapshot = hub.resolve(model)
        output.note(f"{model} is {'built in' if model == hub.BUILT_IN else 'a folder on this disk'}: nothing to fetch.")
        files: list[dict[str, Any]] = []
    else:
        plan = hub.plan(model, revision, variant)
        files = [{"path": file.path, "bytes": file.size, "here": file.here} for file in plan.files]
        if dry_run:
            if json:
                output.say_json({"model": plan.repository, "revision": plan.commit, "files": files, "ready": False})
            else:
                show(plan, output.out_console())
            return
        show(plan, output.err_console())
        snapshot = fetch(plan)
        if plan.revision not in ("main", plan.commit):
            model = f"{plan.repository}@{plan.revision}"
    if set_default and not dry_run:
        hub.set_default_model(model)
        output.note(f"{model} is now the default model.")
    if json:
        said = {"model": snapshot.reference, "revision": snapshot.revision, "path": str(snapshot.path)}
        output.say_json({**said, "files": files, "ready": True})
    else:
        output.say(f"ready {snapshot.path}")


def fetch(plan: Plan) -> Snapshot:
    """Pulls under two bars: the file that is coming, and all of them."""
    import logging

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from .. import hub

    if plan.missing == 0:
        return hub.pull(plan)
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
        total = bars.add_task("Total", total=plan.size, completed=plan.size - plan.missing)
        current = bars.add_task("", visible=False)
        done: dict[str, int] = {}

        def progress(file: PlannedFile, n: int) -> None:
            if file.path not in done:
                bars.reset(current, description=file.path, total=file.size, visible=True)
            bars.update(current, completed=n)
            bars.advance(total, n - done.get(file.path, 0))
            done[file.path] = n

        snapshot = hub.pull(plan, progress)
        bars.update(current, visible=False)
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
        table.add_row(Text(file.path), decimal(file.size), "yes" if file.here else "no")
    console.print(table)
    console.print(
        Text(f"{plan.repository} at {plan.commit[:12]}: {decimal(plan.missing)} of {decimal(plan.size)} to fetch"),
        soft_wrap=True,
    )
