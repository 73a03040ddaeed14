"""Who may import whom: data flows one way, and no import goes against it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "mlxdiff"
# What anybody may import: they import nothing but each other.
LEAVES = {
    "catalogue",
    "computer",
    "conditioning",
    "containers",
    "errors",
    "few_steps",
    "files",
    "fitting",
    "hashing",
    "inputs",
    "masks",
    "part_kinds",
    "parts",
    "picture_files",
    "printable",
    "recent",
    "remembering",
    "request",
    "rgb",
    "spelling",
    "threads",
    "weight_changes",
    "workers",
}
ALLOWED = {
    "__init__": {"diffusion", "listing", "pipeline", "text"},
    "__main__": {"cli"},
    "cli": {
        *("__init__", "adapters", "animate", "backend", "batch", "checking", "culling", "gallery", "hub", "images"),
        *("latents", "listing", "metadata", "pipeline", "prompts", "quantized", "recipes", "server"),
        *("steering", "trajectory", "upscaling"),
    },
    "culling": {"metadata", "recipes", "text"},
    "batch": {
        *("evaluating", "images", "labels", "latents", "loras", "metadata", "named_files", "pipeline", "trajectory"),
    },
    "checking": {
        *("__init__", "batch", "budget", "images", "latents", "metadata", "named_files", "recipes", "trajectory"),
    },
    "gallery": {"__init__", "images", "metadata", "recipes", "text"},
    "server": {"__init__", "batch", "canvas", "hub", "images", "loras", "named_files", "recipes", "text"},
    "pipeline": {
        *("autoencoding", "backend", "canvas", "diffusion", "evaluating", "families", "hub", "images", "loras"),
        *("memory", "metadata", "networks", "passes", "prompts", "quantized", "resolve", "steering", "upscaling"),
    },
    "evaluating": {"backend", "diffusion"},
    "repainting": {"canvas", "diffusion", "families"},
    "canvas": {"budget", "images"},
    "resolve": {
        *("backend", "budget", "canvas", "diffusion", "families", "hub", "loras", "named_files", "passes"),
        *("repainting", "steering", "upscaling"),
    },
    "named_files": {"hub"},
    "loras": {"adapters", "checkpoint", "hub", "text"},
    "adapting": {"adapters", "backend", "checkpoint", "families", "loras", "models"},
    "autoencoding": {"backend", "memory", "models"},
    "upscaling": {"backend", "checkpoint", "images", "memory", "models"},
    "networks": {"adapting", "backend", "families", "loras", "memory", "models", "text"},
    "prompts": {"checkpoint", "diffusion", "families", "hub", "loras", "networks", "text"},
    "steering": {
        *("backend", "budget", "canvas", "checkpoint", "diffusion", "families", "hub", "images", "memory"),
        *("models", "networks", "preprocess", "resampling"),
    },
    "memory": {"backend", "models"},
    "quantized": {"checkpoint", "families", "hub"},
    "families": {"checkpoint", "diffusion", "models", "text"},
    "adapters": {"checkpoint"},
    "hub": {"checkpoint"},
    "models": {"kernels"},
    "metadata": {"__init__", "backend", "hub", "images", "named_files", "recipes"},
    "images": {"budget"},
    "latents": {"budget"},
    "budget": {"backend"},
    "trajectory": {"budget", "latents"},
    "animate": {"images"},
    "backend": {"__init__", "kernels"},
    "passes": {
        *("autoencoding", "canvas", "diffusion", "families", "hub", "images", "loras", "memory", "models"),
        *("networks", "prompts", "resampling", "steering", "upscaling"),
    },
}
FAMILY_FILES = {"sd", "sdxl"}


def layer_of(parts: tuple[str, ...]) -> str:
    return parts[0] if parts else "__init__"


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: not those below `if TYPE_CHECKING`, which name types and import nothing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from running(node)


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, as paths below the package, wherever the import stands."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name.split(".")
                if name[0] == "mlxdiff":
                    found.add(tuple(name[1:]))
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and (node.module or "").split(".")[0] != "mlxdiff":
                continue
            base = here[: len(here) - node.level] if node.level else ()
            module = (node.module or "").split(".") if node.module else []
            if node.level == 0:
                module = module[1:]
            target = (*base, *module)
            for alias in node.names:
                deeper = (*target, alias.name)
                is_module = (PACKAGE.joinpath(*deeper).with_suffix(".py")).exists() or PACKAGE.joinpath(
                    *deeper
                ).is_dir()
                found.add(deeper if is_module else target)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    layer = layer_of(parts)
    for target in imports_of(path):
        other = layer_of(target)
        if other == layer or other in LEAVES:
            continue
        assert other in ALLOWED.get(layer, set()), f"{'.'.join(parts)} imports {'.'.join(target) or 'mlxdiff'}"


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_leaves_alone(leaf):
    paths = [path for path in FILES if layer_of(path.relative_to(PACKAGE).with_suffix("").parts) == leaf]
    assert paths, leaf
    for path in paths:
        assert {layer_of(target) for target in imports_of(path)} <= {*LEAVES, leaf}


def module_of(target: tuple[str, ...]) -> tuple[str, ...]:
    return target if PACKAGE.joinpath(*target).with_suffix(".py").exists() else (*target, "__init__")


def test_there_is_no_circle():
    """Depth first over modules, imports inside functions included; a package's own __init__ gathers its modules."""
    graph = {
        path.relative_to(PACKAGE).with_suffix("").parts: {module_of(target) for target in imports_of(path)}
        for path in FILES
    }
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> None:
        if module in above:
            circle = [*above[above.index(module) :], module]
            pytest.fail(" -> ".join(".".join(parts) for parts in circle))
        if module in done or module[-1] == "__init__":
            return
        for target in sorted(graph.get(module, ())):
            visit(target, (*above, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", sorted((PACKAGE / "families").glob("*.py")), ids=lambda path: path.stem)
def test_families_do_not_know_each_other(path: Path):
    if path.stem in FAMILY_FILES:
        siblings = {target[1] for target in imports_of(path) if target[:1] == ("families",) and len(target) > 1}
        assert siblings <= {"base"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_draws(path: Path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    if path.relative_to(PACKAGE).parts[0] != "cli":
        assert not names & {"typer", "rich", "click"}
    assert not names & {"torch", "diffusers", "transformers"}


def test_the_walk_sees_imports_inside_functions_and_of_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "unet.py").write_text("")
    (tmp_path / "hub.py").write_text("")
    source = tmp_path / "diffusion" / "x.py"
    source.parent.mkdir()
    source.write_text(
        "import mlxdiff.hub\nfrom .. import hub\n"
        "def f():\n    from ..models import unet\n    from mlxdiff.cli.app import main\n"
    )
    assert imports_of(source) == {("hub",), ("models", "unet"), ("cli", "app")}
