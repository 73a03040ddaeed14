"""Parts from the hub: pulled, found, listed, checked and removed; against a hub on this machine that may lie."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import part_files
import pytest
from hub_server import Answer
from huggingface_hub import constants
from public_repositories import IP_ADAPTER, LIGHTNING
from repositories import cached, repository

from mlxdiff import hub
from mlxdiff.errors import CheckpointError, InputError, MlxdiffError, ModelNotFoundError, RequestError, UnsupportedError

NAME = "owner/name"
LLM = {"config.json": b"{}", "model.safetensors": part_files.tensors(lm_head__weight=(2, 20))}
WEIGHTS = "pytorch_lora_weights.safetensors"
LORA = {"README.md": b"x", WEIGHTS: part_files.lora()}
CANNY = part_files.component("ControlNetModel")
ADAPTER = part_files.tensors(image_proj__proj__weight=(2, 2), ip_adapter__1__to_k_ip__weight=(2, 2))


def pulled(reference: str, **more) -> Path:
    return hub.pull(hub.plan(reference, **more)).path


def brought(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix().split("/", 3)[3] for path in cache.glob("*/snapshots/**/*.*")}


def test_a_lora_is_pulled_alone_and_found_by_its_repository(online, cache):
    online.add(NAME, LORA)
    plan = hub.plan(NAME)
    assert (plan.kind, plan.single, [file.path for file in plan.files]) == ("lora", WEIGHTS, [WEIGHTS])
    path = hub.pull(plan).path
    assert path.read_bytes() == LORA[WEIGHTS]
    assert brought(cache) == {WEIGHTS}
    assert hub.find_part(NAME, "lora") == hub.find_part(f"{NAME}/{WEIGHTS}", "lora") == path
    assert hub.find_part(f"https://huggingface.co/{NAME}/blob/main/{WEIGHTS}", "lora") == path
    online.requests.clear()
    assert hub.plan(NAME).missing == 0
    assert not [asked for asked in online.requests if "/resolve/" in asked.path]


@pytest.mark.parametrize(
    ("class_name", "kind"),
    [("ControlNetModel", "control"), ("T2IAdapter", "control"), ("AutoencoderKL", "vae"), ("AutoencoderTiny", "vae")],
)
def test_a_component_is_pulled_as_a_folder(online, cache, class_name, kind):
    files = part_files.component(class_name)
    online.add(NAME, {**files, "diffusion_pytorch_model.bin": b"x", "images/x.png": b"x", "README.md": b"x"})
    plan = hub.plan(NAME)
    folder = hub.pull(plan).path
    assert (plan.kind, plan.single, brought(cache)) == (kind, None, set(files))
    assert hub.find_part(NAME, kind) == folder
    assert (folder / "config.json").read_bytes() == files["config.json"]
    if kind == "vae":
        assert hub.resolve_vae(NAME) == folder


def test_a_vae_of_a_model_stands_for_the_model_and_a_missing_one_says_what_to_run(online):
    online.add(NAME, repository())
    folder = pulled(NAME)
    assert hub.resolve_vae(NAME) == folder
    with pytest.raises(ModelNotFoundError, match=r"mlxdiff pull stabilityai/sd-vae-ft-mse$"):
        hub.resolve_vae("stabilityai/sd-vae-ft-mse")


def test_of_many_files_the_one_that_is_named_comes(online, cache):
    online.add("ByteDance/SDXL-Lightning", {name: part_files.lora(fill=len(name)) for name in LIGHTNING})
    with pytest.raises(UnsupportedError, match=r"holds 11 \.safetensors files"):
        hub.plan("ByteDance/SDXL-Lightning")
    file = "sdxl_lightning_4step_lora.safetensors"
    reference = f"ByteDance/SDXL-Lightning/{file}"
    plan = hub.plan(reference)
    path = hub.pull(plan).path
    assert (plan.kind, path.name, brought(cache)) == (None, file, {file})
    assert hub.find_part(reference, "lora") == hub.find_part("ByteDance/SDXL-Lightning", "lora") == path
    other = "sdxl_lightning_8step_lora.safetensors"
    with pytest.raises(ModelNotFoundError, match=f"mlxdiff pull ByteDance/SDXL-Lightning/{other}$"):
        hub.find_part(f"ByteDance/SDXL-Lightning/{other}", "lora")
    pulled(f"ByteDance/SDXL-Lightning/{other}")
    with pytest.raises(UnsupportedError, match=f"--lora ByteDance/SDXL-Lightning/{file}"):
        hub.find_part("ByteDance/SDXL-Lightning", "lora")
    assert hub.find_part(reference, "lora") == path


def test_an_ip_adapter_comes_with_its_image_encoder(online, cache):
    files = {name: ADAPTER if "ip-adapter" in name else b"{}" for name in IP_ADAPTER}
    online.add("h94/IP-Adapter", files)
    path = pulled("h94/IP-Adapter/models/ip-adapter_sd15.safetensors")
    encoder = {"models/image_encoder/config.json", "models/image_encoder/model.safetensors"}
    assert brought(cache) == {"models/ip-adapter_sd15.safetensors", *encoder}
    assert hub.find_part("h94/IP-Adapter", "ip_adapter") == path
    assert (path.parent / "image_encoder" / "config.json").is_file()
    (part,) = hub.cached_parts()
    assert (part.kind, part.complete, set(part.parts[0].files)) == ("ip_adapter", True, {*encoder, part.parts[0].path})


@pytest.mark.parametrize(
    "form", ["{}@v1", "{}/style.safetensors@v1", "https://huggingface.co/{}/blob/v1/style.safetensors"]
)
def test_a_revision_of_a_part(online, form):
    old = online.add(NAME, {"style.safetensors": part_files.lora(fill=1)}, revision="v1")
    online.add(NAME, {"style.safetensors": part_files.lora(fill=2)})
    reference = form.format(NAME)
    path = pulled(reference)
    assert path.parent.name == old
    assert hub.find_part(reference, "lora") == path
    with pytest.raises(ModelNotFoundError, match=f"mlxdiff pull {NAME}$"):
        hub.find_part(NAME, "lora")


def test_a_commit_is_asked_of_the_hub_unless_it_is_surely_all_there(online, monkeypatch):
    commit = online.add(NAME, {"a.safetensors": part_files.lora(fill=1), "b.safetensors": part_files.lora(fill=2)})
    path = pulled(f"{NAME}/a.safetensors@{commit}")
    online.requests.clear()
    assert not hub.plan(f"{NAME}/a.safetensors@{commit}").listed
    assert not online.requests
    with pytest.raises(UnsupportedError, match="holds 2"):
        hub.plan(f"{NAME}@{commit}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.pull(hub.plan(f"{NAME}/a.safetensors@{commit}")).path == path
    assert hub.plan(f"{NAME}@{commit}").single == "a.safetensors"
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE"):
        hub.plan(f"{NAME}/b.safetensors@{commit}")


def test_a_repository_of_one_checkpoint_is_a_model(online):
    names = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.x")
    content = part_files.file_of(dict.fromkeys(names, (1,)))
    commit = online.add(NAME, {"README.md": b"x", "sd.safetensors": content})
    path = pulled(NAME)
    found = hub.resolve(NAME)
    assert (found.path, path.read_bytes()) == (path, content)
    assert found.reference == f"https://huggingface.co/{NAME}/blob/{commit}/sd.safetensors"
    assert hub.resolve(f"{NAME}/sd.safetensors") == hub.resolve(found.reference) == found
    assert hub.resolve_vae(NAME) == path
    with pytest.raises(UnsupportedError, match=r"is a model, not a LoRA\. Use it as --model"):
        hub.find_part(NAME, "lora")
    with pytest.raises(ModelNotFoundError, match=r"If it is on the hub, run: mlxdiff pull no/such/sd\.safetensors$"):
        hub.resolve("no/such/sd.safetensors")


def test_what_is_used_as_another_kind_is_said(online):
    online.add(NAME, LORA)
    online.add("owner/canny", CANNY)
    pulled(NAME), pulled("owner/canny")
    with pytest.raises(
        UnsupportedError, match=r"owner/canny is a ControlNet, not a LoRA\. .*--control owner/canny=IMAGE"
    ):
        hub.find_part("owner/canny", "lora")
    with pytest.raises(UnsupportedError, match=r"owner/name is a LoRA, not an IP-Adapter\. .*--lora owner/name"):
        hub.find_part(NAME, "ip_adapter")
    with pytest.raises(UnsupportedError, match=r"owner/name is a LoRA, not a model\. Use it as --lora owner/name"):
        hub.resolve(NAME)
    with pytest.raises(UnsupportedError, match="is a ControlNet, not a model"):
        hub.resolve("owner/canny")


@pytest.mark.parametrize("files", [{"learned_embeds.bin": b"x"}, {"x4.pth": b"x", "a/b.pt": b"x"}])
def test_pickles_are_refused_before_anything_comes(online, cache, files):
    online.add(NAME, {"README.md": b"x", **files})
    with pytest.raises(UnsupportedError, match=r"only pickles .*safetensors\.torch\.save_file"):
        hub.plan(NAME)
    with pytest.raises(UnsupportedError, match="is a pickle"):
        hub.plan(f"{NAME}/{next(iter(files))}")
    assert not cache.exists()


def test_a_pull_that_broke_off_goes_on(online, cache):
    big = part_files.file_of({f"{part_files.KOHYA}.lora_down.weight": (100, 1000)})
    online.add(NAME, {WEIGHTS: big})
    online.cut("/cdn/", 150_000)
    online.fail("/cdn/", 404)
    with pytest.raises(MlxdiffError):
        pulled(NAME)
    (part,) = cache.glob("*/blobs/*.incomplete")
    assert part.stat().st_size == 150_000
    with pytest.raises(ModelNotFoundError, match=f"mlxdiff pull {NAME}$"):
        hub.find_part(NAME, "lora")
    assert hub.cached_parts() == []
    online.faults.clear()
    online.requests.clear()
    assert pulled(NAME).read_bytes() == big
    assert [asked.headers["Range"] for asked in online.requests if "/cdn/" in asked.path] == ["bytes=150000-"]


def test_a_damaged_part_is_found_and_comes_again(online):
    online.add(NAME, LORA)
    path = pulled(NAME)
    (part,) = hub.cached_parts()
    assert [(file.path, file.sound, file.needed) for file in hub.verify(part)] == [(WEIGHTS, True, True)]
    path.resolve().write_bytes(bytes(len(LORA[WEIGHTS])))
    (part,) = hub.cached_parts()
    assert (part.kind, part.complete) == (None, False)
    (file,) = hub.verify(part)
    assert (file.sound, file.needed) == (False, True)
    hub.remove_damaged(part, [file])
    assert not path.exists()
    assert pulled(NAME).read_bytes() == LORA[WEIGHTS]


def test_what_arrives_damaged_twice_is_no_part(online, cache):
    online.add(NAME, LORA)
    online.corrupt("/cdn/", 30, times=2)
    with pytest.raises(CheckpointError, match="arrived damaged twice"):
        pulled(NAME)
    assert brought(cache) == set()


def test_parts_are_listed_apart_from_models_and_from_what_is_none(online, cache):
    online.add(NAME, repository())
    online.add("owner/canny", CANNY)
    online.add("owner/lora", LORA)
    for name in (NAME, "owner/canny", "owner/lora"):
        pulled(name)
    cached(cache, LLM, name="an/llm")
    assert [model.reference for model in hub.cached_models()] == [NAME]
    listed = [(part.reference, part.kind, part.complete, part.refs) for part in hub.cached_parts()]
    assert listed == [("owner/canny", "control", True, ("main",)), ("owner/lora", "lora", True, ("main",))]
    assert [part.size for part in hub.cached_parts()] == [sum(map(len, CANNY.values())), len(LORA[WEIGHTS])]


def test_what_another_program_brought_is_found_and_removed_only_where_it_is_a_part(cache):
    folder = cached(cache, {**CANNY, "README.md": b"x"}, name="owner/canny")
    cached(cache, LLM, name="an/llm")
    assert hub.find_part("owner/canny", "control") == folder
    with pytest.raises(ModelNotFoundError, match="leaves it alone"):
        hub.removal_of("an/llm")
    with pytest.raises(RequestError, match="names one file"):
        hub.removal_of("owner/canny/diffusion_pytorch_model.safetensors")
    hub.remove(hub.removal_of("owner/canny"))
    assert not folder.exists()
    assert [name for name in os.listdir(cache) if name.startswith("models--")] == ["models--an--llm"]


def test_old_revisions_of_parts_are_pruned(online):
    online.add(NAME, {WEIGHTS: part_files.lora(fill=1)})
    old = pulled(NAME)
    online.add(NAME, {WEIGHTS: part_files.lora(fill=2)})
    new = pulled(NAME)
    removal = hub.prunable()
    assert [model.path for model in removal.models] == [old.parent]
    hub.remove(removal)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_component_that_lost_its_weights_says_what_to_run(online):
    online.add(NAME, CANNY)
    folder = pulled(NAME)
    (folder / "diffusion_pytorch_model.safetensors").resolve().unlink()
    (part,) = hub.cached_parts()
    assert not part.complete
    with pytest.raises(ModelNotFoundError, match=f"not complete: .*mlxdiff pull {NAME}$"):
        hub.find_part(NAME, "control")
    pulled(NAME)
    assert hub.find_part(NAME, "control") == folder


CONFIGS = (
    *(b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"_class_name": 1}', b'{"_class_name": "\\u001b[2J"}'),
    *(json.dumps({"_class_name": name}).encode() for name in ("UNet2DConditionModel", "../../x", "x" * 10_000)),
    b'{"_class_name": "ControlNetModel"}' + b" " * 2**21,
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: ascii(config[:24]))
def test_no_config_of_a_repository_is_believed(online, tmp_path, config):
    online.add(NAME, {**CANNY, "config.json": config})
    start = time.process_time()
    with pytest.raises(MlxdiffError) as caught:
        hub.plan(NAME)
    assert time.process_time() - start < 8
    assert str(caught.value).isprintable()
    assert set(os.listdir(tmp_path)) <= {"hf", "state"}


def test_a_hub_that_changes_its_config_between_plan_and_pull_is_found_out(online, cache):
    online.add(NAME, CANNY)
    plan = hub.plan(NAME)
    online.alter(
        "config.json", lambda answer: Answer(answer.status, b'{"_class_name": "AutoencoderKL"}', answer.headers)
    )
    with pytest.raises(MlxdiffError):
        hub.pull(plan)
    assert not list(cache.glob("*/snapshots/*/config.json"))


NAMES = ["../../../victim.safetensors", "/etc/x.safetensors", "a\\..\\..\\b.safetensors", "x\x1b[2J.safetensors"]


@pytest.mark.parametrize("name", [*NAMES, "a:b.safetensors", " .safetensors", "x\u202egpj.safetensors"])
def test_no_file_of_a_listing_leads_out_of_the_cache(online, cache, tmp_path, name):
    online.add(NAME, {WEIGHTS: b"x"})

    def renamed(answer: Answer) -> Answer:
        page = json.loads(answer.body)
        for entry in page:
            entry["path"] = name
        return Answer(200, json.dumps(page).encode(), answer.headers)

    online.alter("/tree/", renamed)
    with pytest.raises(MlxdiffError) as caught:
        pulled(NAME)
    assert str(caught.value).isprintable()
    assert not cache.exists()
    assert set(os.listdir(tmp_path)) <= {"state"}


@pytest.mark.parametrize("path", ["../x", "name/../../x", "name/a//b", "name/a\\..\\b", "name/x\n"])
def test_no_reference_leads_out_of_the_cache(path):
    reference = f"owner/{path}.safetensors"
    assert hub.parse_reference(reference) is None
    with pytest.raises(ModelNotFoundError):
        hub.plan(reference)
    with pytest.raises(ModelNotFoundError, match="There is no file or folder"):
        hub.find_part(reference, "lora")


def test_a_link_that_leads_out_of_the_cache_is_no_part(cache, tmp_path):
    secret = part_files.write(tmp_path / "secret.safetensors", part_files.lora())
    folder = cached(cache, {"README.md": b"x"})
    (folder / WEIGHTS).symlink_to(secret)
    with pytest.raises(MlxdiffError):
        hub.find_part(NAME, "lora")
    assert hub.cached_parts() == []


@pytest.mark.parametrize("kind", ["lora", "embedding", "control", "ip_adapter", "upscaler", "vae"])
def test_what_is_no_file_is_said_to_be_none(tmp_path, kind):
    """And not looked for by its name, as what is not there is."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    (tmp_path / "round.safetensors").symlink_to("round.safetensors")
    for name, what in (("pipe", "a pipe, a device"), ("gone", "a link that leads nowhere"), ("round", "a link")):
        with pytest.raises(InputError, match=rf"{name}\.safetensors is {what}"):
            hub.find_part(str(tmp_path / f"{name}.safetensors"), kind)
