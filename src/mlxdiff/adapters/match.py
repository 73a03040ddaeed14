"""An adapter beside a model: every layer finds its module, and every change fits its parameter, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from ..errors import CheckpointError
from . import family
from .change import Change, Shape, torch_shape
from .finite import check_finite
from .forms import Broken, Misfit, changes_of
from .names import Place, Places
from .read import Adapter, Layer
from .refusals import listed, other_family

Shapes = Mapping[str, Mapping[str, Shape]]
"""component -> path of a parameter -> its shape in MLX's layout, before a module's `fuse`."""

Changes = dict[str, dict[str, Change]]
"""component -> path of a parameter -> what changes it."""

_REMEDY = "Use a LoRA that was made for this model's family."


def match(adapter: Adapter, shapes: Shapes) -> Changes:
    """What the adapter changes of a model whose components have these shapes.

    Reads the weights once, to refuse NaN. Raises CheckpointError, which lists the first few keys that match nothing or
    do not fit, and says what the adapter is for as far as it tells.
    """
    places = Places(shapes)
    found = [(layer, places.find(layer.name)) for layer in adapter.layers]
    lost = [layer.name for layer, candidates in found if not candidates]
    if lost:
        raise CheckpointError(
            f"{adapter.path} does not fit{_families(adapter, shapes)}: the model has no {listed(lost)}.", _REMEDY
        )
    changes: Changes = {}
    by_place: dict[Place, Layer] = {}
    misfits: list[str] = []
    for layer, candidates in found:
        try:
            place, new = _fitting(layer, candidates, shapes)
        except Broken as broken:
            raise CheckpointError(
                f"{adapter.path} is damaged or not complete: {layer.name[:120]!r} {broken}.", "Download it again."
            ) from None
        except Misfit as misfit:
            misfits.append(f"{layer.name[:120]!r} {misfit}")
            continue
        component = changes.setdefault(place.component, {})
        twice = component.keys() & new.keys()
        if twice and _are_alike(layer, by_place[place]):
            continue  # some files hold everything in kohya's names and in the original ones
        if twice:
            raise CheckpointError(
                f"{adapter.path} changes {min(twice)!r} twice.", "Use a file with one of both changes."
            )
        component |= new
        by_place[place] = layer
    if misfits:
        more = f" (and {len(misfits) - 1} more such)" if len(misfits) > 1 else ""
        raise CheckpointError(f"{adapter.path} does not fit{_families(adapter, shapes)}: {misfits[0]}{more}.", _REMEDY)
    check_finite(adapter.path)
    return changes


def _fitting(layer: Layer, candidates: Sequence[Place], shapes: Shapes) -> tuple[Place, dict[str, Change]]:
    """The first place whose shapes the layer fits. Raises Misfit of the last."""
    for i, place in enumerate(candidates):
        inside = shapes[place.component]
        params = {
            name: inside[f"{place.path}.{name}"] for name in ("weight", "bias") if f"{place.path}.{name}" in inside
        }
        try:
            forms = changes_of(layer, {name: torch_shape(shape) for name, shape in params.items()})
        except Misfit:
            if i < len(candidates) - 1:
                continue
            raise
        alpha = layer.numbers.get("alpha")
        return place, {f"{place.path}.{name}": Change(params[name], form, alpha) for name, form in forms.items()}
    raise AssertionError(layer.name)


def _are_alike(layer: Layer, other: Layer) -> bool:
    """Whether two layers are the same numbers under two names."""
    if layer.numbers != other.numbers or layer.parts.keys() != other.parts.keys():
        return False
    return all(mx.array_equal(array, other.parts[part]).item() for part, array in layer.parts.items())


def _families(adapter: Adapter, shapes: Shapes) -> str:
    """` (it is for SDXL, the model is SD 1.x)`, as far as both are known."""
    other = other_family([layer.name for layer in adapter.layers])
    made = other if other is not None else family.WORDS.get(str(adapter.base))
    model = family.of_model(shapes)
    if made is None or (model is not None and adapter.base == model and other is None):
        return ""
    return f" (it is for {made})" if model is None else f" (it is for {made}, the model is {family.WORDS[model]})"
