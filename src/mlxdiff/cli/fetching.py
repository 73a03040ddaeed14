"""What `mlxdiff pull` shows of a plan and of files that are coming."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from rich.console import Console

    from ..hub import Plan, PlannedFile, Snapshot


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
