"""What a user calls a model, in its parts: ids, addresses, and what must not become a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.errors import InputError, ModelNotFoundError
from mlxdiff.hub.library import find_part, resolve_vae
from mlxdiff.hub.local import resolve
from mlxdiff.hub.reference import (
    HubReference,
    can_name_a_file,
    canonical,
    is_address,
    parse_reference,
    parse_repository,
    shown,
)

HUB = "https://huggingface.co"
FILE = "v1-5.safetensors"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (f"{HUB}/acme/model", HubReference("acme/model")),
        (f"{HUB}/acme/model/", HubReference("acme/model")),
        (f"{HUB}/acme/model.git", HubReference("acme/model")),
        (f"{HUB}/acme/model@v1", HubReference("acme/model", "v1")),
        (f"{HUB}/acme/model?not-for-all-audiences=true#usage", HubReference("acme/model")),
        (f"{HUB}/acme/model/tree/main", HubReference("acme/model", "main")),
        (f"{HUB}/acme/model/tree/v1.0/unet", HubReference("acme/model", "v1.0")),
        (f"{HUB}/acme/model/tree/refs%2Fpr%2F3", HubReference("acme/model", "refs/pr/3")),
        (f"{HUB}/acme/model/tree/refs/pr/3/unet", HubReference("acme/model", "refs/pr/3")),
        (f"{HUB}/acme/model/commit/{'a' * 40}", HubReference("acme/model", "a" * 40)),
        (f"{HUB}/acme/model/discussions/7", HubReference("acme/model")),
        (f"{HUB}/acme/model/blob/main/{FILE}", HubReference("acme/model", "main", FILE)),
        (f"{HUB}/acme/model/resolve/v1/{FILE}?download=true", HubReference("acme/model", "v1", FILE)),
        (
            f"{HUB}/acme/model/blob/main/a%20b/c%20d.safetensors",
            HubReference("acme/model", "main", "a b/c d.safetensors"),
        ),
        ("http://huggingface.co/acme/model", HubReference("acme/model")),
        ("https://www.huggingface.co/acme/model", HubReference("acme/model")),
        ("https://hf.co/acme/model", HubReference("acme/model")),
        ("huggingface.co/acme/model", HubReference("acme/model")),
    ],
)
def test_an_address_on_the_hub_is_a_model(address, expected):
    assert parse_reference(address) == expected
    assert parse_reference(str(expected)) == expected


def test_the_hub_of_the_environment_is_one(monkeypatch):
    assert parse_reference("http://hub.local:8080/acme/model") is None
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.local:8080")
    assert parse_reference("http://hub.local:8080/acme/model") == HubReference("acme/model")
    assert parse_reference("http://hub.local/acme/model") is None


@pytest.mark.parametrize(
    "address",
    [
        *("https://example.com/acme/model", "https://huggingface.co", f"{HUB}/acme", f"{HUB}/datasets/acme/data"),
        *(f"{HUB}/spaces/acme/space", "ftp://huggingface.co/acme/model", "https://huggingface.co.evil/acme/model"),
        *(f"{HUB}/..%2F..%2Fetc/passwd", f"{HUB}/acme/..", f"{HUB}/acme/a--b", f"{HUB}/acme/model/tree/..%2Fx"),
        *(f"{HUB}/acme/model/blob/main/..%2F..%2Fx.safetensors", f"{HUB}/acme/model/blob/main/a%00b.safetensors"),
        *("https://[", "https://huggingface.co:99999/acme/model", "https://user@evil/huggingface.co/acme/model"),
        *("://", "http://", "https:///acme/model", "s3://bucket/key"),
    ],
)
def test_other_addresses_are_none_and_say_so(address):
    assert is_address(address)
    assert parse_reference(address) is None
    with pytest.raises(ModelNotFoundError, match="no address of a model on the Hugging Face hub"):
        resolve(address)


def test_an_address_is_written_down_short():
    assert canonical(f"{HUB}/acme/model/tree/v1") == "acme/model@v1"
    assert canonical(f"{HUB}/acme/model") == "acme/model"
    assert canonical("acme/model@v1") == "acme/model@v1"
    assert canonical("./folder") == "./folder"


@given(st.text(max_size=60))
def test_no_text_leads_out_of_the_cache(text):
    for reference in (text, f"{HUB}/{text}", f"{HUB}/acme/model/blob/{text}", f"acme/{text}", f"a/b@{text}"):
        parsed = parse_reference(reference)
        if parsed is None:
            continue
        assert parse_repository(parsed.name) == (parsed.name, None)
        for part in (parsed.name, parsed.revision or "x", parsed.file or "x"):
            assert ".." not in part.split("/")
            assert not part.startswith("/")
            assert "\\" not in part
            assert part.isprintable()


@pytest.mark.parametrize(
    "path",
    ["", "/x", "x/", "a//b", "../x", "a/../b", ".", "a\\b", "c:x", "a\0", "a\n", "a.", " a", "x" * 201, "\u202ea"],
)
def test_what_cannot_name_a_file(path):
    assert not can_name_a_file(path)


@pytest.mark.parametrize("path", ["unet/config.json", "a b (v2).safetensors", ".gitattributes", "modèle.safetensors"])
def test_what_can_name_a_file(path):
    assert can_name_a_file(path)


@pytest.mark.parametrize(
    "value", [None, "\x1b[2J", "\u202e", "x" * 10_000, [[]] * 1000, 10**10_000, {"a": "\0"}], ids=lambda _: ""
)
def test_what_is_shown_is_short_and_can_be_printed(value):
    assert shown(value).isprintable()
    assert shown(value).isascii()
    assert len(shown(value)) <= 80


@pytest.mark.parametrize("find", [resolve, resolve_vae, lambda name: find_part(name, "lora")])
def test_a_folder_that_may_not_be_entered_is_named(tmp_path, monkeypatch, find):
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path)  # root enters every folder
    with pytest.raises(InputError, match="There is no permission to read"):
        find(str(tmp_path))
