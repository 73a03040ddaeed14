"""Fewer directions of a LoRA, as A1111's `dyn` takes them: the first columns of up with the first rows of down.

A DoRA's lengths are then set of the weight with those. As in A1111 every other form, and a LoCon with a Tucker core,
keeps all that it is.
"""

from __future__ import annotations

from dataclasses import replace

from .change import Form
from .forms.low_rank import LowRankForm, LowRankTable, TuckerForm
from .forms.scaled import Decomposed
from .match import Changes


def limited(changes: Changes, rank: int) -> Changes:
    """The changes with at most `rank` directions, where they have any to choose from; their scales stay."""
    return {
        component: {path: replace(change, form=_limited(change.form, rank)) for path, change in by_path.items()}
        for component, by_path in changes.items()
    }


def has_directions(changes: Changes) -> bool:
    """Whether `limited` changes anything at some rank."""
    return any(_limited(change.form, 1) is not change.form for each in changes.values() for change in each.values())


def _limited(form: Form, rank: int) -> Form:
    if isinstance(form, Decomposed):
        inner = _limited(form.inner, rank)
        return form if inner is form.inner else replace(form, inner=inner)
    if isinstance(form, LowRankForm | LowRankTable) and not isinstance(form, TuckerForm):
        return replace(form, down=form.down[:rank], up=form.up[:, :rank])
    return form
