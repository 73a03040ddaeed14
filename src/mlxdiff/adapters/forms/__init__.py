"""The forms that a change can have. Which one a layer is, its parts say."""

from __future__ import annotations

from collections.abc import Mapping

from ..change import Form, Shape
from ..read import Layer
from .low_rank import BiasOfUp, low_rank, table
from .misfit import Broken, Misfit, fit
from .products import hadamard, kronecker
from .rotated import general, orthogonal
from .scaled import decomposed, multiplied
from .whole import Added, Replaced

__all__ = ["Broken", "Misfit", "changes_of"]

# The form that a part of its name belongs to.
_BUILDERS = {
    "up": low_rank,
    "down": low_rank,
    "mid": low_rank,
    "embedding": table,
    "hada": hadamard,
    "lokr": kronecker,
    "glora": general,
    "oft": orthogonal,
}


def changes_of(layer: Layer, shapes: Mapping[str, Shape]) -> dict[str, Form]:
    """The forms by the parameter (`weight`, `bias`) that they change. Raises Misfit.

    shapes  of the module's parameters, in torch's layout
    """
    parts = layer.parts
    forms: dict[str, Form] = {}

    def shape_of(name: str) -> Shape:
        if name not in shapes:
            raise Misfit(f"changes a {name}, and the model has none there")
        return shapes[name]

    def add(name: str, form: Form) -> None:
        if name in forms:
            raise Broken("has more than one form of change at once")
        forms[name] = form

    for build in dict.fromkeys(_BUILDERS[kind] for part in parts if (kind := part.split("_")[0]) in _BUILDERS):
        add("weight", build(layer, shape_of("weight")))
    if "up_bias" in parts:
        add("bias", BiasOfUp(fit(parts["up_bias"], shape_of("bias")), layer.scale(parts["down"].shape[0])))
    for part, name in (("diff", "weight"), ("diff_bias", "bias")):
        if part in parts:
            add(name, Added(fit(parts[part], shape_of(name))))
    if "value" in parts:
        add("weight", Replaced(fit(parts["value"], shape_of("weight"))))
    replaced = [name for name in ("weight", "bias") if name in parts]
    if "factor" in parts or "on_input" in layer.numbers:
        for name, form in multiplied(layer, shapes).items():
            add(name, form)
        if "factor" not in parts:
            replaced.remove("weight")  # which holds the factors
    for name in replaced:
        add(name, Replaced(fit(parts[name], shape_of(name))))
    if "magnitude" in parts or "row_magnitude" in parts:
        if "weight" not in forms:
            raise Broken("has a DoRA of nothing")
        forms["weight"] = decomposed(layer, forms["weight"], shape_of("weight"))
    if not forms:
        raise Broken("has an alpha, and no change")
    return forms
