"""What other programs write, as they write it, into a Request; and what of it is not used is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from recipes_graphs import CATS, comfyui, of_graph, read
from safetensors.numpy import save_file

from mlxdiff import recipes
from mlxdiff.containers import exif
from mlxdiff.errors import InputError, MlxdiffError, RequestError
from mlxdiff.metadata import request_from_file
from mlxdiff.named_files import known_part
from mlxdiff.request import Lora, Request


def test_comfyuis_default_graph():
    settings_, said = of_graph(comfyui())
    assert said == []
    assert settings_ == {
        **CATS,
        "prompt_syntax": "comfyui",
        "compat": "comfyui",
        "guidance_scale": 8.0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "rng": "torch",
        "model": "found/v1-5",
    }


def test_comfyuis_other_nodes_are_named_by_their_class():
    graph = comfyui(_3={"model": ["10", 0], "positive": ["12", 0]}, _8={"vae": ["11", 0]})
    graph["10"] = {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "ink.safetensors", "strength_model": 0.7, "model": ["4", 0], "clip": ["4", 1]},
    }
    graph["11"] = {"class_type": "VAELoader", "inputs": {"vae_name": "ft-mse.safetensors"}}
    graph["12"] = {"class_type": "NodeOfTomorrow", "inputs": {"conditioning": ["6", 0], "vividness": 3}}
    graph["13"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    settings_, (said,) = of_graph(graph)
    assert (settings_["prompt"], settings_["model"]) == ("a cat", "found/v1-5")
    assert settings_["lora"] == (Lora("ink", 0.7, text=0.0),), "its clip goes nowhere"
    for part in ("VAELoader: ft-mse.safetensors", "NodeOfTomorrow: 3"):
        assert part in said
    for part in ("PreviewImage", "VAEDecode", "CLIPTextEncode", "KSampler", "LoraLoader"):
        assert part not in said


def test_comfyuis_loaders_of_loras():
    graph = comfyui(_3={"model": ["11", 0]}, _6={"clip": ["10", 1]})
    inputs = {"lora_name": "a/ink.safetensors", "strength_model": 0.7, "strength_clip": 0.5, "clip": ["4", 1]}
    graph["10"] = {"class_type": "LoraLoader", "inputs": {**inputs, "model": ["12", 0]}}
    graph["11"] = {
        "class_type": "Power Lora Loader (rgthree)",
        "inputs": {
            "lora_1": {"on": True, "lora": "sub\\dust.safetensors", "strength": 0.2},
            "lora_2": {"on": False, "lora": "off.safetensors", "strength": 1},
            "model": ["10", 0],
        },
    }
    inputs = {"lora_name": "glow.safetensors", "strength_model": 1, "model": ["4", 0]}
    graph["12"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    settings_, said = of_graph(graph)
    assert settings_["lora"] == (Lora("dust", 0.2, text=0.0), Lora("ink", 0.7, text=0.5), Lora("glow", 1, text=0.0))
    assert settings_["model"] == "found/v1-5"
    assert not said


def test_a_lora_is_used_where_it_is_found_by_name_or_hash_and_else_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXDIFF_LORAS", str(tmp_path / "loras"))
    (tmp_path / "loras").mkdir()
    save_file({"lora_unet_x.lora_down.weight": np.ones((1, 2), np.float32)}, tmp_path / "loras/mine.safetensors")
    digest = hashlib.sha256((tmp_path / "loras/mine.safetensors").read_bytes()).hexdigest()[:10]

    def request_of(values: dict) -> tuple[Request, list[str]]:
        recipe = recipes.read({"parameters": json.dumps(values)}, str)
        assert recipe is not None
        return recipes.finished(recipe, {}, lambda name, hash: known_part(name, "lora", hash))

    fooocus = {"prompt": "a cat", "base_model": "x", "performance": "Speed"}
    request, said = request_of({**fooocus, "loras": [["mine", 0.1, ""], ["renamed", 0.2, digest], ["gone", 0.3, "12"]]})
    assert request.lora == (Lora("mine", 0.1), Lora("mine", 0.2))
    assert "LoRA gone (0.3)" in said[0]
    text = f'a <lora:renamed:0.4> b <lora:gone:1>\nSteps: 4, Seed: 1, Lora hashes: "renamed: {digest}, gone: 12"'
    (tmp_path / "a.txt").write_text(text)
    assert request_from_file(tmp_path / "a.txt").prompt == "a <lora:mine:0.4> b <lora:gone:1>"


def test_comfyuis_values_in_nodes_of_their_own():
    graph = comfyui(_3={"seed": ["30", 0], "steps": ["31", 0]}, _6={"text": ["32", 0]}, _5={"width": ["34", 0]})
    graph["30"] = {"class_type": "Seed (rgthree)", "inputs": {"seed": 77}}
    graph["31"] = {"class_type": "PrimitiveInt", "inputs": {"value": 33}}
    graph["32"] = {"class_type": "StringConcatenate",
                   "inputs": {"string_a": "a red", "string_b": ["33", 0], "delimiter": " "}}  # fmt: skip
    graph["33"] = {"class_type": "PrimitiveString", "inputs": {"value": "fox"}}
    graph["34"] = {"class_type": "INTConstant", "inputs": {"value": 640}}
    settings_, said = of_graph(graph)
    assert said == []
    assert [settings_[name] for name in ("seed", "steps", "prompt", "width")] == [77, 33, "a red fox", 640]


def test_comfyuis_sampler_in_parts():
    graph = comfyui()
    graph["3"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["40", 0],
            "guider": ["41", 0],
            "sampler": ["42", 0],
            "sigmas": ["43", 0],
            "latent_image": ["5", 0],
        },
    }
    graph["40"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": 12}}
    graph["41"] = {"class_type": "CFGGuider", "inputs": {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0],
                                                         "cfg": 3.5}}  # fmt: skip
    graph["42"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler_ancestral"}}
    graph["43"] = {"class_type": "KarrasScheduler", "inputs": {"steps": 15, "rho": 7.0}}
    settings_, said = of_graph(graph)
    assert said == []
    assert [settings_[name] for name in ("seed", "guidance_scale", "sampler", "schedule", "steps", "prompt")] == [
        12, 3.5, "euler_ancestral", "karras", 15, "a cat",
    ]  # fmt: skip


def test_comfyui_from_a_picture():
    graph = comfyui(_3={"denoise": 0.6, "latent_image": ["50", 0]})
    graph["50"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["51", 0], "vae": ["4", 2]}}
    graph["51"] = {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}
    settings_, (said,) = of_graph(graph)
    assert settings_["strength"] == 0.6
    assert "LoadImage: photo.png" in said


def test_comfyuis_advanced_sampler_that_stops_early():
    graph = comfyui(_3={"noise_seed": 4, "start_at_step": 0, "end_at_step": 12, "return_with_leftover_noise": "enable"})
    graph["3"]["class_type"] = "KSamplerAdvanced"
    settings_, (said,) = of_graph(graph)
    assert settings_["seed"] == 4
    assert "return_with_leftover_noise: enable" in said
    assert "end_at_step: 12" in said


def test_comfyuis_circles_and_rubbish():
    graph = comfyui(_3={"model": ["3", 0], "latent_image": ["8", 0], "positive": ["6", 0], "seed": ["99", 0]},
                    _6={"text": ["6", 0]})  # fmt: skip
    graph |= {"x": 3, "y": {"class_type": 4}, "z": None}
    settings_, _ = of_graph(graph)
    assert settings_["steps"] == 20


def test_a_graph_without_a_sampler(tmp_path):
    picture = PngImagePlugin.PngInfo()
    picture.add_text("prompt", json.dumps({"1": {"class_type": "LoadImage", "inputs": {}}}))
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=picture)
    with pytest.raises(InputError, match="no sampler is to be found"):
        request_from_file(tmp_path / "a.png")


def test_json_files_of_comfyui_are_read_as_its_api_has_them_and_its_editors_are_refused(tmp_path):
    path = tmp_path / "a.json"
    for graph in (comfyui(), {"prompt": comfyui(), "client_id": "x"}, {"prompt": comfyui()}):
        path.write_text(json.dumps(graph))
        with pytest.warns(match="a model called"):
            assert request_from_file(path).prompt == "a cat"
    path.write_text(json.dumps({"nodes": [{"id": 3, "type": "KSampler"}], "links": [], "version": 0.4}))
    with pytest.raises(InputError, match=r"workflow for its editor.*Export \(API\)"):
        request_from_file(path)


def test_invokeai():
    values = {
        "generation_mode": "sdxl_txt2img",
        "positive_prompt": "a cat",
        "negative_prompt": "dogs",
        "positive_style_prompt": "",
        "width": 512,
        "height": 768,
        "seed": 5,
        "rand_device": "cpu",
        "cfg_scale": 7.5,
        "cfg_rescale_multiplier": 0,
        "steps": 20,
        "scheduler": "dpmpp_2m_k",
        "clip_skip": 0,
        "model": {"key": "x", "hash": "blake3:12", "name": "juggernaut", "base": "sdxl", "type": "main"},
        "loras": [{"model": {"name": "ink"}, "weight": 0.75}],
        "app_version": "5.6.0",
        "canvas_v2_metadata": {"rasterLayers": [], "controlLayers": []},
        "seamless_x": False,
    }
    settings_, (said,) = read({"invokeai_metadata": json.dumps(values)})
    assert settings_ == {
        **CATS,
        "guidance_scale": 7.5,
        "guidance_rescale": 0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "rng": "torch",
        "model": "found/juggernaut",
        "lora": (Lora("ink", 0.75),),
    }
    assert ":" not in said


def test_invokeais_refiner_is_used_where_its_checkpoint_is_known():
    values = {
        "positive_prompt": "a cat",
        "negative_prompt": "dogs",
        "steps": 20,
        "seed": 5,
        "width": 512,
        "height": 768,
    }
    told = {"refiner_model": {"name": "xl-refiner"}, "refiner_start": 0.8, "refiner_steps": 20, "refiner_cfg_scale": 3}
    settings_, (said,) = read({"invokeai_metadata": json.dumps({**values, **told, "cfg_scale": 7.5})})
    assert (settings_["refiner"], settings_["refiner_switch"]) == ("found/xl-refiner", 0.8)
    assert "refiner_cfg_scale: 3" in said
    assert "refiner_steps" not in said


def test_invokeai_2_and_1():
    image = {
        "prompt": [{"prompt": "a cat [dogs]", "weight": 1.0}],
        "steps": 20,
        "cfg_scale": 7.5,
        "threshold": 0,
        "perlin": 0,
        "height": 768,
        "width": 512,
        "seed": 5,
        "seamless": False,
        "hires_fix": False,
        "type": "txt2img",
        "postprocessing": None,
        "sampler": "k_euler_a",
        "variations": [],
    }
    values = {"model": "stable diffusion", "model_weights": "sd-1.5", "model_hash": "cc", "app_id": "a", "image": image}
    expected = {**CATS, "guidance_scale": 7.5, "sampler": "euler_ancestral"}
    dream = '"a cat [dogs]" -s 20 -S 5 -W 512 -H 768 -C 7.5 -A k_euler_a'
    settings_, said = read({"sd-metadata": json.dumps(values), "Dream": dream})
    assert (settings_, said) == ({**expected, "model": "found/sd-1.5"}, [])
    settings_, said = read({"Dream": dream})
    assert (settings_, said) == (expected, [])
    _, (said,) = read({"Dream": f"{dream} -G 0.8 --hires_fix"})
    assert "-G: 0.8, -hires_fix" in said


def test_novelai():
    comment = {
        "prompt": "a {cat}",
        "steps": 20,
        "height": 768,
        "width": 512,
        "scale": 5.0,
        "uncond_scale": 1.0,
        "cfg_rescale": 0.0,
        "seed": 5,
        "n_samples": 1,
        "noise_schedule": "karras",
        "sampler": "k_dpmpp_2m",
        "uc": "dogs",
        "request_type": "PromptGenerateRequest",
        "signed_hash": "abc",
        "sm": True,
        "sm_dyn": False,
    }
    texts = {"Title": "AI generated image", "Description": "a {cat}", "Software": "NovelAI",
             "Source": "Stable Diffusion XL C1E1DE52", "Comment": json.dumps(comment)}  # fmt: skip
    settings_, (said,) = read(texts)
    assert settings_ == {
        **CATS,
        "prompt": "a {cat}",
        "guidance_scale": 5.0,
        "guidance_rescale": 0.0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "model": "found/Stable Diffusion XL",
    }
    assert said.startswith("The picture was made with weights in { } and [ ], sm: true, which mlxdiff leaves out")


def test_swarmui(tmp_path):
    params = {
        "prompt": "a cat",
        "negativeprompt": "dogs",
        "model": "OfficialStableDiffusion/sd_xl_base_1.0",
        "images": 1,
        "seed": 5,
        "steps": 20,
        "cfgscale": 7,
        "aspectratio": "1:1",
        "width": 512,
        "height": 768,
        "sampler": "euler",
        "scheduler": "normal_of_tomorrow",
        "loras": ["ink"],
        "loraweights": ["0.5"],
        "automaticvae": True,
        "swarm_version": "0.9.5",
    }
    text = json.dumps({"sui_image_params": params, "sui_extra_data": {"date": "2026"}})
    expected = {**CATS, "guidance_scale": 7, "sampler": "euler", "rng": "torch", "model": "found/sd_xl_base_1.0"}
    expected |= {"prompt_syntax": "comfyui", "compat": "comfyui", "lora": (Lora("ink", 0.5),)}
    settings_, (said,) = read({"parameters": text})
    assert settings_ == expected
    assert "scheduler: normal_of_tomorrow" in said
    assert "lora" not in said
    for kind, data in (("jpg", exif.write({"parameters": text})), ("webp", exif.write({"parameters": text}))):
        Image.new("RGB", (8, 8)).save(tmp_path / f"a.{kind}", exif=data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert request_from_file(tmp_path / f"a.{kind}").seed == 5


def test_fooocus():
    values = {
        "adm_guidance": "(1.5, 0.8, 0.3)",
        "base_model": "juggernautXL",
        "base_model_hash": "33e58e86",
        "clip_skip": 2,
        "full_prompt": ["a cat", "cinematic still"],
        "full_negative_prompt": ["dogs"],
        "guidance_scale": 4.0,
        "loras": [["offset", 0.1, "4852"]],
        "metadata_scheme": "fooocus",
        "negative_prompt": "dogs",
        "performance": "Speed",
        "prompt": "a cat",
        "refiner_model": "None",
        "refiner_switch": 0.5,
        "resolution": "(512, 768)",
        "sampler": "dpmpp_2m_sde_gpu",
        "scheduler": "karras",
        "seed": "5",
        "sharpness": 2.0,
        "steps": 20,
        "styles": "['Fooocus V2']",
        "vae": "Default (model)",
        "version": "Fooocus v2.5.5",
    }
    settings_, (said,) = read({"parameters": json.dumps(values), "fooocus_scheme": "fooocus"})
    assert {name: value for name, value in settings_.items() if name != "clip_skip"} == {
        **CATS,
        "guidance_scale": 4.0,
        "sampler": "dpmpp_2m_sde",
        "schedule": "karras",
        "rng": "torch",
        "model": "found/juggernautXL",
        "lora": (Lora("offset", 0.1),),
    }
    for part in ("adm_guidance: (1.5, 0.8, 0.3)", "sharpness: 2.0", "styles: ['Fooocus V2']", "Speed"):
        assert part in said
    for part in ("refiner", "vae", "version", "resolution"):
        assert part not in said


def test_civitais_json(tmp_path):
    values = {
        "prompt": "a cat",
        "negativePrompt": "dogs",
        "cfgScale": 7,
        "steps": 20,
        "sampler": "DPM++ 2M Karras",
        "seed": 5,
        "Size": "512x768",
        "Model": "dreamshaper",
        "Model hash": "879db523c3",
        "clipSkip": 1,
        "hashes": {"model": "879db523c3"},
        "resources": [{"type": "model", "name": "dreamshaper"}, {"type": "lora", "name": "ink", "weight": 0.6}],
        "Vividness": "3",
    }
    expected = {
        **CATS,
        "prompt_syntax": "a1111",
        "compat": "a1111",
        "guidance_scale": 7,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "model": "found/dreamshaper",
        "lora": (Lora("ink", 0.6),),
    }
    settings_, (said,) = read({"parameters": json.dumps(values)})
    assert settings_ == expected
    assert said.startswith("The picture was made with Vividness: 3, which")
    graph = {**comfyui(), "extraMetadata": json.dumps(values)}
    assert read({"prompt": json.dumps(graph)}) == (expected, [said])
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.warns(match="Vividness"):
        assert request_from_file(tmp_path / "a.json", find_model=str).seed == 5
    settings_, _ = read({"parameters": json.dumps({**values, "Version": "v1.10.1"})})
    assert settings_["rng"] == "philox"


def test_stable_diffusion_cpp_in_a_webp(tmp_path):
    text = (
        "a &quot;cat&quot;&#10;Negative prompt: dogs&#10;Steps: 20, CFG scale: 7.000000, Guidance: 3.500000, "
        "Eta: 0.000000, Seed: 5, Size: 512x768, Model: m.safetensors, RNG: cuda, Sampler RNG: cuda, "
        "Sampler: dpm++2m karras, Version: stable-diffusion.cpp"
    )
    xmp = f'<x:xmpmeta><rdf:Description xmlns:sdcpp="urn:x" sdcpp:parameters="{text}"/></x:xmpmeta>'.encode()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", xmp=xmp)
    request = request_from_file(tmp_path / "a.webp", find_model=str)
    expected = {**CATS, "prompt": 'a "cat"', "guidance_scale": 7.0, "sampler": "dpmpp_2m", "schedule": "karras"}
    assert request == Request(**expected, rng="philox", model="m")


def test_comments_about_other_things_do_not_hide_what_is_in_the_alpha():
    assert recipes.programs({"Comment": "Created with GIMP", "Title": "x", "xmp": "<x/>"}) == []
    assert recipes.programs({"Comment": '{"uc": ""}', "workflow": "{}"}) == ["workflow", "Comment"]


def test_draw_things():
    values = {"c": "a cat", "uc": "dogs", "model": "sd_v1.5.ckpt", "sampler": "Euler A", "scale": 7, "seed": 5,
              "seed_mode": "Scale Alike", "size": "512x768", "steps": 20, "strength": 1, "lora": [{"model": "ink"}],
              "v2": {"steps": 20}}  # fmt: skip
    escaped = json.dumps(values).replace('"', "&quot;")
    item = f'<rdf:Alt><rdf:li xml:lang="x-default">{escaped}</rdf:li></rdf:Alt>'
    xmp = f"<x><exif:UserComment>{item}</exif:UserComment></x>"
    settings_, said = read({"XML:com.adobe.xmp": xmp})
    assert settings_ == {
        **CATS,
        "guidance_scale": 7,
        "sampler": "euler_ancestral",
        "model": "found/sd_v1.5",
        "lora": (Lora("ink", 1.0),),
    }
    assert not said


def test_a_graph_in_a_webp_and_in_a_json_file(tmp_path):
    made = Image.Exif()
    made[0x0110], made[0x010F] = f"prompt:{json.dumps(comfyui())}", 'workflow:{"nodes": []}'
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=made)
    (tmp_path / "b.json").write_text(json.dumps(comfyui()))
    for name in ("a.webp", "b.json"):
        request = request_from_file(tmp_path / name, find_model=str)
        wanted = {"guidance_scale": 8.0, "sampler": "dpmpp_2m", "schedule": "karras", "model": "v1-5"}
        assert request == Request(**CATS, prompt_syntax="comfyui", compat="comfyui", rng="torch", **wanted)


def test_a_request_in_a_json_file(tmp_path):
    request = Request(prompt="a cat", prompt_syntax="compel", steps=3)
    (tmp_path / "a.json").write_text(request.to_json())
    assert request_from_file(tmp_path / "a.json") == request


def test_texts_of_others_cannot_drive_a_terminal():
    settings_, (said,) = of_graph({**comfyui(_6={"text": "\x1b[31mred\u202e"}), "60": {
        "class_type": "\x1b]0;owned\x07Node", "inputs": {"images": ["8", 0], "x": "\x1b[2J"}}})  # fmt: skip
    assert settings_["prompt"] == "red"
    assert "\x1b" not in said
    assert "Node" in said


WORDS = [
    "prompt", "parameters", "inputs", "class_type", "KSampler", "seed", "steps", "text", "image", "model", "sampler",
    "c", "uc", "scale", "sui_image_params", "positive_prompt", "base_model", "cfgScale", "width", "3", "4",
    "latent_image", "positive", "scheduler", "loras", "resources", "strength",
]  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=12,
)
NAMES = sorted({*recipes.NAMES, "parameters", "Comment"})


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), json_values, min_size=1, max_size=3))
def test_any_json_is_a_recipe_or_an_error(texts):
    with contextlib.suppress(RequestError):
        recipe = recipes.read({name: json.dumps(value) for name, value in texts.items()}, str)
        if recipe is not None:
            request, _ = recipes.finished(recipe)
            assert Request.from_json(request.to_json()) == request


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_graph_is_a_recipe_or_an_error(data):
    graph = comfyui()
    for _ in range(data.draw(st.integers(1, 4))):
        node = graph[data.draw(st.sampled_from(sorted(graph)))]["inputs"]
        key = data.draw(st.sampled_from([*node, "x"]))
        link = st.tuples(st.sampled_from([*graph, "99"]), st.just(0)).map(list)
        node[key] = data.draw(link | json_values)
    with contextlib.suppress(MlxdiffError):
        recipe = recipes.read({"prompt": json.dumps(graph)}, str)
        assert recipe is not None
        recipes.finished(recipe)


def test_a_large_graph_takes_no_time():
    graph = comfyui()
    for i in range(100, 2100):
        kind = "KSampler" if i % 3 == 0 else "Node"
        graph[str(i)] = {"class_type": kind, "inputs": {f"x{j}": [str(100 + (i * j) % 2000), 0] for j in range(20)}}
    graph["3"]["inputs"]["model"] = ["1500", 0]
    start = time.process_time()
    of_graph(graph)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", NAMES)
def test_deep_and_long_texts(name):
    many = "{" + '"a": 1, ' * 10**5 + '"b": 2}'
    for text in ("[" * 10**5, '{"a":' * 10**5, many, '{"prompt": ' + "9" * 10**5 + "}"):
        with contextlib.suppress(MlxdiffError):
            recipes.read({name: text}, str)
