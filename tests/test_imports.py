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
    "conditioning",
    "control_groups",
    "cores",
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
    "power",
    "printable",
    "recent",
    "remembering",
    "request",
    "rgb",
    "threads",
    "weight_changes",
    "workers",
    "xmp",
}
PIPELINE = {
    "pipeline",
    "adapting",
    "evaluating",
    "autoencoding",
    "branches",
    "canvas",
    "controls",
    "encoding",
    "enlarging",
    "guiding",
    "handover",
    "ip_adapters",
    "loras",
    "networks",
    "parsing",
    "picture_prompts",
    "randomness",
    "relay",
    "resolve",
    "stages",
    "starting",
    "steering",
}
ALLOWED = {
    "__init__": {"diffusion", "listing", "pipeline", "text"},
    "__main__": {"cli"},
    "cli": {
        *(
            "__init__",
            "adapters",
            "batch",
            "culling",
            "pipeline",
            "quantized",
            "hub",
            "images",
            "metadata",
            "backend",
            "listing",
            "server",
        ),
        *(
            "animate",
            "checking",
            "gallery",
            "ip_adapters",
            "labels",
            "latents",
            "prompt_report",
            "provenance",
            "recipes",
            "sheets",
            "trajectory",
            "upscaling",
        ),
    },
    "culling": {"metadata", "recipes", "text"},
    "batch": {
        *("pipeline", "evaluating", "backend", "images", "labels", "latents", "loras", "metadata", "provenance"),
        *("sheets", "trajectory"),
    },
    "checking": {
        *("__init__", "batch", "budget", "containers", "images", "latents", "metadata", "named_files", "parameters"),
        *("picture_texts", "png", "recipes", "sheets", "trajectory"),
    },
    "gallery": {"__init__", "images", "metadata", "recipes", "stealth", "text"},
    "server": {
        *("__init__", "batch", "canvas", "hub", "images", "loras", "named_files", "pipeline", "recipes", "text"),
    },
    "pipeline": {
        *(PIPELINE - {"pipeline"}),
        *("adapters", "families", "checkpoint", "diffusion", "text"),
        *("hub", "images", "metadata", "backend", "memory", "quantized", "upscaling"),
    },
    "evaluating": {"backend", "diffusion"},
    "repainting": {"canvas", "diffusion", "families"},
    "canvas": {"budget", "images"},
    "starting": {
        *("autoencoding", "canvas", "images", "networks", "randomness", "resampling", "steering"),
        *("diffusion", "families"),
    },
    "resolve": {
        *(
            "families",
            "named_files",
            "hub",
            "diffusion",
            "canvas",
            "repainting",
            "regions",
            "backend",
            "budget",
            "loras",
            "memory",
        ),
        *("ip_adapters", "scheduling", "stages", "upscaling"),
    },
    "scheduling": {"families", "diffusion"},
    "stages": {"scheduling", "families", "diffusion", "loras"},
    "relay": {
        *("adapting", "branches", "encoding", "enlarging", "guiding", "handover", "loras", "networks", "randomness"),
        *("controls", "diffusion", "families", "memory", "picture_prompts", "stages"),
        *("starting", "steering"),
    },
    "handover": {"diffusion"},
    "enlarging": {"autoencoding", "hub", "images", "networks", "resampling", "upscaling"},
    "named_files": {"hub"},
    "loras": {"adapters", "checkpoint", "hub", "text"},
    "adapting": {"adapters", "backend", "checkpoint", "families", "loras", "models"},
    "ip_adapters": {"ip_adapter_files", "hub", "checkpoint", "diffusion", "models"},
    "ip_adapter_files": {"checkpoint", "models"},
    "picture_prompts": {
        *("ip_adapters", "ip_adapter_files", "clip_pixels", "regions", "resampling", "networks", "steering"),
        *("backend", "checkpoint", "memory", "models"),
    },
    "clip_pixels": {"images", "budget"},
    "regions": {"images"},
    "autoencoding": {"models", "memory", "backend"},
    "upscaling": {"checkpoint", "models", "images", "memory", "backend"},
    "guiding": {"diffusion", "encoding"},
    "randomness": {"diffusion"},
    "networks": {"adapting", "families", "loras", "models", "text", "memory", "backend"},
    "encoding": {"hub", "loras", "networks", "parsing", "families", "checkpoint", "diffusion", "text"},
    "parsing": {"text"},
    "prompt_report": {"parsing", "text"},
    "branches": {"models", "diffusion", "steering"},
    "controls": {"families", "models", "diffusion", "networks", "steering", "hub", "control_pictures"},
    "control_pictures": {"canvas", "fitting", "images", "masks", "preprocess"},
    "steering": {"models", "diffusion", "networks", "images"},
    "memory": {"backend", "models"},
    "quantized": {"families", "checkpoint", "models", "hub"},
    "families": {"checkpoint", "models", "diffusion", "text"},
    "adapters": {"checkpoint"},
    "hub": {"checkpoint"},
    "models": {"kernels"},
    "metadata": {
        *(
            "__init__",
            "backend",
            "named_files",
            "parameters",
            "picture_texts",
            "provenance",
            "recipes",
            "sheets",
            "stealth",
        ),
    },
    "picture_texts": {"containers", "images", "png", "recipes", "sheets"},
    "provenance": {"__init__", "picture_texts"},
    "sheets": {"__init__"},
    "stealth": {"images", "recipes"},
    "containers": {"exif"},
    "png": {"exif"},
    "images": {"budget", "exif"},
    "latents": {"budget"},
    "budget": {"backend"},
    "trajectory": {"budget", "latents"},
    "animate": {"containers", "images"},
    "parameters": {"__init__", "recipes", "short_hashes"},
    "short_hashes": {"hub", "named_files"},
    "backend": {"__init__", "blas", "kernels"},
    "kernels": {"blas", "elf"},
    "blas": {"elf"},
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
