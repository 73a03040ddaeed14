"""Parts by name: in the folders of a variable and in the store, which is filled, listed, checked and emptied."""

from __future__ import annotations

import hashlib
import os
import time

import part_files
import pytest
import torch

from mlxdiff import hub
from mlxdiff.errors import CheckpointError, ModelNotFoundError, OutputError, RequestError, UnsupportedError
from mlxdiff.hub.shelf import parts_below

STYLE = part_files.lora(fill=1)


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """Two folders of LoRAs, as MLXDIFF_LORAS lists them."""
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("MLXDIFF_LORAS", os.pathsep.join(("", str(first), str(second), "/no/such")))
    return first, second


def test_a_name_is_a_file_s_stem_wherever_below_the_folders_it_lies(loras):
    first, second = loras
    style = part_files.write(second / "a" / "b" / "style.safetensors", STYLE)
    assert hub.find_part("style", "lora") == hub.find_part("style.safetensors", "lora") == style
    again = part_files.write(first / "style.safetensors", part_files.lora(fill=2))
    assert hub.find_part("style", "lora") == again, "the first folder goes before the second"
    assert hub.find_part(str(style), "lora") == style
    dotted = part_files.write(first / "v1.5 style, new.safetensors", STYLE)
    assert hub.find_part("v1.5 style, new", "lora") == dotted


def test_its_own_letters_go_before_another_case_and_that_before_the_name_in_the_file(loras):
    first, second = loras
    alias = part_files.write(first / "x.safetensors", part_files.lora(ss_output_name="Style"))
    assert hub.find_part("style", "lora") == alias
    other = part_files.write(second / "STYLE.safetensors", STYLE)
    assert hub.find_part("style", "lora") == other
    same = part_files.write(second / "deep" / "style.safetensors", STYLE)
    assert hub.find_part("style", "lora") == same
    assert hub.find_part("Style", "lora") == other


def test_the_name_in_a_file_is_read_again_when_the_file_changes(loras):
    path = part_files.write(loras[0] / "x.safetensors", part_files.lora(ss_output_name="one"))
    assert hub.find_part("one", "lora") == path
    part_files.write(path, part_files.lora(ss_output_name="another"))
    assert hub.find_part("another", "lora") == path
    with pytest.raises(ModelNotFoundError):
        hub.find_part("one", "lora")


def test_different_files_of_one_name_are_an_error_and_copies_are_not(loras):
    one = part_files.write(loras[0] / "a" / "style.safetensors", STYLE)
    part_files.write(loras[0] / "b" / "style.safetensors", STYLE)
    assert hub.find_part("style", "lora") == one
    part_files.write(loras[0] / "c" / "style.safetensors", part_files.lora(fill=3))
    with pytest.raises(UnsupportedError, match=r"may be any of 3 LoRA files: .*Give the path"):
        hub.find_part("style", "lora")


def test_what_is_no_name_of_a_lora_gets_the_nearest_and_what_to_run(loras):
    part_files.write(loras[0] / "inkSketch_v2.safetensors", STYLE)
    part_files.write(loras[0] / "broken.safetensors", b"not a file")
    with pytest.raises(ModelNotFoundError, match=r"Did you mean inkSketch_v2\? .*mlxdiff pull FILE\.safetensors"):
        hub.find_part("inksketch_v3", "lora")
    with pytest.raises(ModelNotFoundError, match="There is no embedding 'inkSketch_v2' in MLXDIFF_EMBEDDINGS"):
        hub.find_part("inkSketch_v2", "embedding")
    for name in ("", " ", "\0", "x" * 5000, "*", "\ud800", "~nobody-at-all"):
        with pytest.raises(ModelNotFoundError):
            hub.find_part(name, "lora")
    with pytest.raises(UnsupportedError, match=r"style\.pt is a pickle.*torch\.save_file"):
        hub.find_part("style.pt", "lora")


def test_folders_that_lead_to_themselves_end(loras):
    first, second = loras
    path = part_files.write(first / "a" / "style.safetensors", STYLE)
    (first / "a" / "up").symlink_to(first)
    second.symlink_to(first)
    (first / "gone.safetensors").symlink_to(first / "nowhere")
    (first / "a" / "itself.safetensors").symlink_to("itself.safetensors")
    (first / "a" / "a circle").symlink_to("a circle")
    os.mkfifo(first / "pipe.safetensors")
    assert [part.path for part in parts_below(first)] == [path]
    assert hub.find_part("style", "lora") == path


def test_a_folder_with_a_component_has_its_folder_s_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXDIFF_CONTROLS", str(tmp_path))
    for name, content in part_files.component("ControlNetModel").items():
        part_files.write(tmp_path / "canny" / name, content)
    assert hub.find_part("canny", "control") == tmp_path / "canny"
    with pytest.raises(ModelNotFoundError):
        hub.find_part("diffusion_pytorch_model", "control")


KINDS = {
    "lora": part_files.lora(),
    "embedding": part_files.tensors(emb_params=(2, 768)),
    "vae": part_files.tensors(decoder__conv_in__weight=(2, 2, 3, 3)),
    "control": part_files.tensors(controlnet_cond_embedding__conv_in__weight=(2, 2, 3, 3)),
    "ip_adapter": part_files.tensors(image_proj__proj__weight=(2, 2)),
    "upscaler": part_files.tensors(conv_first__weight=(2, 2, 3, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_kept_under_its_kind_and_found_by_its_name(tmp_path, kind):
    source = part_files.write(tmp_path / "my part.safetensors", KINDS[kind])
    assert hub.add_part(source)
    source.unlink()
    path = hub.find_part("my part", kind)
    assert path == hub.home() / "parts" / kind / "my part.safetensors"
    assert path.read_bytes() == KINDS[kind]
    (part,) = hub.stored_parts()
    assert (part.kind, part.name, part.path, part.size) == (kind, "my part", path, len(KINDS[kind]))
    assert hub.check_stored(part) is True
    with pytest.raises(ModelNotFoundError):
        hub.find_part("my part", next(other for other in KINDS if other != kind))
    hub.remove_stored(part)
    assert hub.stored_parts() == []
    with pytest.raises(ModelNotFoundError):
        hub.find_part("my part", kind)


def test_the_same_again_is_nothing_new_and_another_needs_another_name(tmp_path):
    source = part_files.write(tmp_path / "style.safetensors", STYLE)
    assert (hub.add_part(source), hub.add_part(source)) == (True, False)
    other = part_files.write(tmp_path / "other.safetensors", part_files.lora(fill=9))
    with pytest.raises(OutputError, match="--as, or overwrite"):
        hub.add_part(other, name="style")
    assert hub.find_part("style", "lora").read_bytes() == STYLE
    assert hub.add_part(other, name="style.safetensors", force=True)
    assert hub.find_part("style", "lora").read_bytes() == other.read_bytes()


def test_a_kind_is_given_where_the_header_is_silent_and_cannot_contradict_it(tmp_path):
    unknown = part_files.write(tmp_path / "x.safetensors", part_files.tensors(a__weight=(1,), b__weight=(1,)))
    with pytest.raises(UnsupportedError, match=r"--kind lora\|embedding\|vae\|control\|ip_adapter\|upscaler$"):
        hub.add_part(unknown)
    assert hub.add_part(unknown, "upscaler")
    assert hub.find_part("x", "upscaler").is_file()
    style = part_files.write(tmp_path / "style.safetensors", STYLE)
    with pytest.raises(RequestError, match="is a LoRA, going by its header, not a VAE"):
        hub.add_part(style, "vae")
    names = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x")
    model = part_files.write(tmp_path / "sd.safetensors", part_files.file_of(dict.fromkeys(names, (1,))))
    for kind in (None, "lora"):
        with pytest.raises(UnsupportedError, match=r"whole checkpoint.*mlxdiff generate -m"):
            hub.add_part(model, kind)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "a\\b", "", ".", "..", ".hidden", "a:b", "a\x1bb", "x" * 300]
)
def test_no_name_leads_out_of_the_store(tmp_path, name):
    source = part_files.write(tmp_path / "style.safetensors", STYLE)
    with pytest.raises(RequestError, match="can name no part"):
        hub.add_part(source, name=name)
    assert not (hub.home() / "parts").exists()
    assert os.listdir(tmp_path) == ["style.safetensors"]


def test_damaged_files_and_pickles_are_not_kept(tmp_path):
    for content in (b"", STYLE[:-1], STYLE[:40], b"x" * 100, (10 * 2**30).to_bytes(8, "little") + b"{" * 100):
        source = part_files.write(tmp_path / "style.safetensors", content)
        with pytest.raises(CheckpointError):
            hub.add_part(source, "lora")
    torch.save({"x": torch.zeros(1)}, source)
    with pytest.raises(UnsupportedError, match="is a pickle under another name"):
        hub.add_part(source, "lora")
    assert not (hub.home() / "parts").exists()


def test_damage_in_the_store_is_found(tmp_path):
    source = part_files.write(tmp_path / "style.safetensors", STYLE)
    hub.add_part(source)
    (part,) = hub.stored_parts()
    part.path.write_bytes(STYLE[:-1] + b"x")
    assert hub.check_stored(part) is False
    assert hub.add_part(source, force=True)
    assert hub.check_stored(part) is True
    own = part_files.write(part.path.with_name("own.safetensors"), STYLE)
    assert hub.check_stored(hub.stored_part("own")) is None
    own.unlink()


def test_one_name_of_two_kinds_has_to_be_told_apart(tmp_path):
    for kind in ("lora", "vae"):
        hub.add_part(part_files.write(tmp_path / "x.safetensors", KINDS[kind]))
    with pytest.raises(RequestError, match=r"a LoRA and a VAE.*--kind lora"):
        hub.stored_part("x")
    assert hub.stored_part("x", "vae").path.parent.name == "vae"
    with pytest.raises(ModelNotFoundError, match="no upscaler 'x' in mlxdiff's store"):
        hub.stored_part("x", "upscaler")


def settled(path):
    """The path, once its times are older than the clock's tick: only then is a hash remembered."""
    os.utime(path, (1e9, 1e9))
    time.sleep(0.06)
    return path


def test_hashes_are_of_the_file_and_of_what_stands_behind_its_header(loras):
    path = settled(part_files.write(loras[0] / "style.safetensors", STYLE))
    header = 8 + int.from_bytes(STYLE[:8], "little")
    found = hub.hashes_of(path)
    assert found.file == hashlib.sha256(STYLE).hexdigest()
    assert found.data == hashlib.sha256(STYLE[header:]).hexdigest()
    assert (found.autov2, found.autov3) == (found.file[:10], found.data[:12])


def test_hashes_are_remembered_while_the_file_is_the_same(loras, monkeypatch):
    from mlxdiff.hub import hashes

    path = settled(part_files.write(loras[0] / "style.safetensors", STYLE))
    first = hub.hashes_of(path)
    monkeypatch.setattr(hashes, "_known", {})
    with monkeypatch.context() as unread:
        unread.setattr(hashes, "_read", lambda _: pytest.fail("it was read again"))
        assert hub.hashes_of(path) == first
    part_files.write(path, part_files.lora(fill=7))
    assert hub.hashes_of(path).data != first.data
    for damaged in (f'{{"files": {{"{path}": ["x", 1]}}}}', '{"files": [', "[]", '{"files": 1}'):
        (hub.home() / "hashes.json").write_text(damaged)
        monkeypatch.setattr(hashes, "_known", {})
        assert hub.hashes_of(path).file == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_found_by_any_of_its_hashes(loras):
    path = settled(part_files.write(loras[0] / "style.safetensors", STYLE))
    part_files.write(loras[0] / "other.safetensors", part_files.lora(fill=3))
    part_files.write(loras[0] / "broken.safetensors", b"")
    claim = part_files.write(
        loras[1] / "claim.safetensors", part_files.lora(fill=4, sshs_model_hash="0123456789ab" * 5)
    )
    found = hub.hashes_of(path)
    for digest in (found.autov2, found.autov3, found.file, found.data, found.autov3.upper(), f" {found.autov3} "):
        assert hub.find_by_hash("lora", digest) == path
    assert hub.find_by_hash("lora", "0123456789ab") == claim
    assert hub.find_by_hash("embedding", found.autov3) is None
    for digest in ("", found.file[:7], "x" * 12, "0" * 12, found.file + "0"):
        assert hub.find_by_hash("lora", digest) is None


def test_the_store_and_the_cache_are_searched_by_hash(online, tmp_path):
    hub.add_part(part_files.write(tmp_path / "style.safetensors", STYLE))
    stored = hub.find_part("style", "lora")
    assert hub.find_by_hash("lora", hashlib.sha256(STYLE).hexdigest()[:10]) == stored
    content = part_files.lora(fill=5)
    online.add("owner/name", {"pytorch_lora_weights.safetensors": content})
    path = hub.pull(hub.plan("owner/name")).path
    assert hub.find_by_hash("lora", hub.hashes_of(path).autov3) == path
    assert hub.file_hash(path) == hashlib.sha256(content).hexdigest() == path.resolve().name


def test_the_built_in_parts_have_names_and_one_s_own_go_before_them(loras):
    assert hub.find_part("pixel-art", "lora").is_file()
    assert (hub.find_part("emoji-edges", "control") / "config.json").is_file()
    own = part_files.write(loras[0] / "pixel-art.safetensors", STYLE)
    assert hub.find_part("pixel-art", "lora") == own
