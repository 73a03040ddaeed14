"""Wildcards in YAML and JSON: names and options against the extension's own package, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from wildcard_folders import all_of, written

from mlxdiff.batch.wildcard_files import WildcardFiles
from mlxdiff.errors import InputError, RequestError

FILES = {
    "zoo.yaml": """
animals:
  pets: [cat, 3::dog, {text: hamster, weight: 1.5}, "{small|large} rat"]  # a comment
  wild:
    land:
      - a lion # of Africa
      - "__animals/pets__ and fox"
      - ''
    sea: {none: []}
one: a single option
long: >
  over two
  lines
years: [1990, yes, 1.50]
""",
    "packs/more.json": '{"colors": {"warm": ["red", {"content": "orange", "weight": 2}], "cold": "blue", "no": null}}',
    "packs/list.yaml": "- one\n- two\n",
    "packs/deep/shapes.yml": "shapes: [round, square]\n",
    "colors.txt": "from the text file\n",
    "other.yaml": "colors: [hidden by the text file]\n",
}
NOT_OF_THE_PACKAGE = {"years", "shapes"}  # it leaves out what is no text, and does not read .yml


def of_the_package(folder: Path) -> dict[str, dict[str, float]]:
    """Each name's options and their weights."""
    manager = pytest.importorskip("dynamicprompts.wildcards").WildcardManager(folder)
    return {
        name: {str(item): getattr(item, "weight", 1) for item in manager.get_file(name).get_values()}
        for name in manager.get_collection_names()
    }


def ours(files: WildcardFiles, name: str) -> dict[str, float]:
    lines = files.options(name)
    return dict(zip(lines.texts, lines.weights, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("wildcards"), FILES)


def test_names_options_and_weights_are_those_of_the_package(folder):
    files = WildcardFiles(folder)
    theirs = of_the_package(folder)
    assert set(files.names) - {"packs/deep/shapes"} == set(theirs)
    for name in set(theirs) - NOT_OF_THE_PACKAGE - {"colors"}:
        assert ours(files, name) == {text.strip(): weight for text, weight in theirs[name].items()}


def test_what_only_we_read(folder):
    files = WildcardFiles(folder)
    assert list(files.options("years").texts) == ["1990", "yes", "1.50"]
    assert list(files.options("shapes").texts) == ["round", "square"]
    assert list(files.options("colors").texts) == ["from the text file"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package's own, of pyparsing
@pytest.mark.parametrize(
    "text",
    ["__animals/pets__", "a __one__", "__animals/**__", "__warm__ and __packs/colors/c*__", "__list__", "__w?rm__"],
)
def test_combinations_are_those_of_the_package(folder, text):
    generators = pytest.importorskip("dynamicprompts.generators")
    manager = pytest.importorskip("dynamicprompts.wildcards").WildcardManager(folder)
    theirs = generators.CombinatorialPromptGenerator(manager).generate(text, 1000)
    assert sorted(all_of(text, folder)) == sorted({str(one).strip() for one in theirs})


WORD = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=8).filter(
    lambda text: text.strip() == text and "::" not in text and "/" not in text and "_" not in text
)
OPTION = WORD | st.builds(lambda text, weight: {"text": text, "weight": weight}, WORD, st.integers(1, 9))
NAME = st.text("abcé -1", min_size=1, max_size=5).filter(lambda text: text.strip() == text)
TREE = st.recursive(
    st.lists(OPTION, min_size=1, max_size=4) | WORD,
    lambda inner: st.dictionaries(NAME, inner, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


@given(tree=TREE, is_json=st.booleans())
def test_any_tree_is_read_as_by_the_package(tmp_path_factory, tree, is_json):
    folder = tmp_path_factory.mktemp("any")
    if is_json:
        (folder / "a.json").write_text(json.dumps(tree), encoding="utf-8")
    else:
        (folder / "a.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    files, theirs = WildcardFiles(folder), of_the_package(folder)
    assert {name: ours(files, name) for name in files.names} == theirs


BAD = {
    "a flow mapping": ({"a.yaml": "a: [cat, {red|green}]\n"}, "Option 2 of a in {}/a.yaml is no text"),
    "a list in a list": ({"a.json": '{"a": [["x"]]}'}, "Option 1 of a in {}/a.json is no text"),
    "true": ({"a.json": '{"a": true}'}, "Option 1 of a in {}/a.json is no text"),
    "a weight": ({"a.yaml": "a: [{text: x, weight: heavy}]"}, "has a weight that is no number"),
    "an escape": ({"a.yaml": 'a: ["\\x1b[31mred"]'}, "has the character U+001B"),
    "a raw escape": ({"a.yaml": "b: c\na: [\x1b[31mred]"}, "a.yaml, line 2, has the character U+001B"),
    "a long option": ({"a.yaml": f"a: {'x' * 20_000}"}, "is longer than"),
    "no YAML": ({"a.yaml": "b: c\na: [b\n"}, "a.yaml, line 3, cannot be read"),
    "no YAML, by a number": ({"a.yaml": "a: *b\n"}, "a.yaml, line 1, cannot be read"),
    "no JSON": ({"a.json": '{\n"a": }'}, "a.json, line 2, cannot be read"),
    "latin": ({"a.yaml": b"a: caf\xe9\n"}, "a.yaml, line 1, is not UTF-8"),
    "deep brackets": ({"a.yaml": "[" * 100_000}, "a.yaml"),
    "deep JSON": ({"a.json": "[" * 100_000}, "a.json has too many names in names"),
    "deep lists": ({"a.yaml": "- " * 3000 + "x"}, "a.yaml"),
    "a name in itself": ({"a.yaml": "x: &x {y: *x}\n"}, "a.yaml, line 1, cannot be read"),
    "names deeper than anyone needs": ({"a.json": '{"a":' * 60 + "1" + "}" * 60}, "names more than 50 deep"),
    "names that multiply": (
        {"a.yaml": "a0: &a0 {}\n" + "".join(f"a{i + 1}: &a{i + 1} {{x: *a{i}, y: *a{i}}}\n" for i in range(40))},
        "more than 100000 names",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name, tmp_path):
    files, said = BAD[name]
    with pytest.raises(InputError) as caught:
        WildcardFiles(written(tmp_path, files)).options("a")
    assert said.replace("{}", str(tmp_path)) in str(caught.value)
    assert caught.value.remedy.endswith(".")


def test_what_is_wrong_under_one_name_is_no_matter_for_others(tmp_path):
    folder = written(tmp_path, {"a.yaml": "bad: [{red|green}]\ngood: [x]\n", "t.txt": "y\n"})
    assert all_of("__good__ __t__", folder) == ["x y"]


def test_a_broken_collection_is_no_matter_for_a_text_file(tmp_path):
    assert all_of("__t__", written(tmp_path, {"a.yaml": "a: [b\n", "t.txt": "y\n"})) == ["y"]


def test_circles_through_collections_and_names_that_are_missing_are_said(tmp_path):
    files = WildcardFiles(written(tmp_path, {"a.yaml": "a: [__b/c__]\nb: {c: ['__a__'], d: __gone__}\n"}))
    with pytest.raises(RequestError, match=r"names itself \(a > b/c > a\)"):
        files.check("__a__")
    with pytest.raises(RequestError, match=r"In .*a\.yaml: There is no wildcard __gone__"):
        files.check("__d__")
    with pytest.raises(RequestError) as caught:
        files.check("__b/e__")
    assert caught.value.remedy == "Did you mean __b/d__?"


def test_links_that_lead_out_are_not_followed(tmp_path):
    folder = written(tmp_path / "lists", {"real.yaml": "a: [b]\n"})
    written(tmp_path, {"secret.yaml": "secret: [secret]\n"})
    (folder / "outside.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(RequestError, match="There is no wildcard __secret__"):
        WildcardFiles(folder).options("secret")
    assert list(WildcardFiles(folder).options("a").texts) == ["b"]
