"""What is asked before every render must not cost the import of a network client."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from patience import WAIT

from mlxdiff import hub


def test_the_built_in_model_is_found_without_heavy_imports():
    code = (
        "import sys; from mlxdiff import hub; hub.resolve(hub.default_model()); import mlxdiff.text;"
        "print(*sorted({'mlx', 'numpy', 'huggingface_hub', 'httpx', 'httpx2', 'rich', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=True)
    assert done.stdout.strip() == ""


def test_no_module_of_the_hub_imports_itself_by_a_detour():
    folder = Path(hub.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    graph = {
        name: {
            node.module
            for node in ast.walk(ast.parse((folder / f"{name}.py").read_text()))
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module in modules
        }
        for name in modules
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)  # CycleError where there is one


def test_nothing_private_of_huggingface_hub_is_used():
    for path in Path(hub.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("huggingface_hub"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not [name for name in names if name.startswith("_") and name != "__version__"], path.name
            assert not (isinstance(node, ast.Attribute) and node.attr == "__bases__"), path.name
