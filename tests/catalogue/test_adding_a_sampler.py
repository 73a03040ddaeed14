"""docs/adding-a-sampler.md, followed to the letter on a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
from patience import WAIT

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- (file|row|test)(?:: (\S+))? -->\n```python\n(.*?)```", re.DOTALL)

LOOK = """
import sys

from mlxdiff.catalogue import SAMPLERS, find_sampler
assert "mlx" not in sys.modules and "midpoint" in SAMPLERS

from mlxdiff.request import Request
assert Request(sampler="midpoint").sampler == "midpoint"

import mlx.core as mx
from mlxdiff.diffusion.samplers import sample
from mlxdiff.diffusion.schedule import SchedulerConfig, make_schedule

plan = make_schedule(SchedulerConfig.from_dict({"_class_name": "EulerDiscreteScheduler"}, "midpoint"), 4, "karras")
noise = lambda *_: mx.ones((1, 2, 2, 4))
for options in ({}, {"jitter": 0.5}):
    walk = list(sample(find_sampler("MIDPOINT"), lambda x, s: x * 0 + 1, plan.start(noise()), plan, noise, options))
    assert [step.sigma for step in walk] == list(plan.sigmas[1:])
"""


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Path:
    """The package after steps 1 and 2 of the page."""
    root = tmp_path_factory.mktemp("followed")
    shutil.copytree(
        ROOT / "src" / "mlxdiff", root / "src" / "mlxdiff", ignore=shutil.ignore_patterns("assets", "__pycache__")
    )
    for kind, path, code in BLOCK.findall((ROOT / "docs" / "adding-a-sampler.md").read_text()):
        if kind == "file":
            (root / path).write_text(code)
        elif kind == "row":
            table = (root / path).read_text()
            end = "\n)\n\nSAMPLERS = "
            assert table.count(end) == 1
            (root / path).write_text(table.replace(end, f"\n{indent(code.rstrip(), '    ')},{end}"))
        else:
            (root / "test_midpoint.py").write_text(code)
    return root


def run(root: Path, *arguments: str) -> None:
    environment = {"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_new_sampler_runs_under_all_its_names(followed):
    run(followed, "-c", LOOK)


def test_the_pages_proof_passes(followed):
    run(followed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_midpoint.py")


def test_the_page_has_all_its_blocks():
    kinds = [kind for kind, _, _ in BLOCK.findall((ROOT / "docs" / "adding-a-sampler.md").read_text())]
    assert kinds == ["file", "row", "test"]
