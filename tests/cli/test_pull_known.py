"""`mlxdiff pull` with short names: listed, brought, said in full."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from repositories import repository

from mlxdiff.hub.known import KNOWN

SD21 = KNOWN["sd21"].repository
Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_short_name_is_brought_and_listed_as_here(server, run):
    server.add(SD21, repository())
    before = [json.loads(line) for line in run("pull", "--list-known", "--json").stdout.splitlines()]
    assert {row["name"]: row["model"] for row in before} == {name: row.repository for name, row in KNOWN.items()}
    assert not any(row["here"] for row in before)
    brought = run("pull", "sd21")
    assert f"sd21 is {SD21}." in brought.stderr
    assert brought.stdout.startswith("ready ")
    after = [json.loads(line) for line in run("pull", "--list-known", "--json").stdout.splitlines()]
    assert [row["name"] for row in after if row["here"]] == ["sd21"]
    table = run("pull", "--list-known").stdout
    assert next(line for line in table.splitlines() if line.startswith("sd21 ")).endswith("yes")
    assert "yes" not in next(line for line in table.splitlines() if line.startswith("sdxl "))
    run("pull", "--verify", "sd21")
    run("pull", "--remove", "sd21", "--yes")


def test_the_list_stands_alone(run):
    assert "--list-known is for all short names" in run("pull", "sd21", "--list-known", code=2).stderr
    assert "--list and --list-known" in run("pull", "--list", "--list-known", code=2).stderr
    assert "--force does nothing beside --list-known" in run("pull", "--list-known", "--force", code=2).stderr
