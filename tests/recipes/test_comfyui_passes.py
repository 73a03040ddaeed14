"""Two samplers in ComfyUI's graph, read as two passes where it is plain what the second one does."""

from __future__ import annotations

import pytest
from recipes_graphs import comfyui, of_graph

ON = {"samples": ["21", 0]}


def two(between: dict, **inputs) -> dict:
    """The default graph with a node 20 between its sampler and a second one, 21."""
    graph = comfyui(_8=ON)
    graph["20"] = {"class_type": between.pop("kind"), "inputs": {"samples": ["3", 0], **between}}
    changed = {**graph["3"]["inputs"], "denoise": 0.5, "latent_image": ["20", 0], **inputs}
    graph["21"] = {"class_type": "KSampler", "inputs": changed}
    return graph


TO = {"kind": "LatentUpscale", "upscale_method": "bilinear", "width": 1024, "height": 1024}
BY = {"kind": "LatentUpscaleBy", "upscale_method": "bicubic", "scale_by": 1.5}


def test_enlarged_latents_are_a_second_pass():
    settings, said = of_graph(two(dict(BY), steps=12, cfg=6.0, sampler_name="euler"))
    assert said == []
    assert {name: value for name, value in settings.items() if name.startswith("hires")} == {
        "hires": 1.5,
        "hires_upscaler": "latent-bicubic",
        "hires_strength": 0.5,
        "hires_steps": 12,
        "hires_guidance_scale": 6.0,
        "hires_sampler": "euler",
    }
    assert (settings["steps"], settings["sampler"], settings["width"], "strength" in settings) == (
        20,
        "dpmpp_2m",
        512,
        False,
    )


def test_a_size_and_a_prompt_of_its_own():
    graph = two(
        {"kind": "LatentUpscale", "upscale_method": "nearest-exact", "width": 1024, "height": 1536, "crop": "disabled"}
    )
    graph["21"]["inputs"]["positive"] = ["30", 0]
    graph["30"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat, sharp", "clip": ["4", 1]}}
    settings, said = of_graph(graph)
    assert said == []
    assert str(settings["hires_size"]) == "1024x1536"
    assert (settings["hires_upscaler"], settings["hires_prompt"]) == ("latent-nearest-exact", "a cat, sharp")


def test_an_enlarged_picture_is_a_second_pass():
    graph = two({"kind": "VAEDecode", "vae": ["4", 2]}, latent_image=["23", 0])
    graph["22"] = {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["20", 0], "upscale_method": "lanczos", "scale_by": 2},
    }
    graph["23"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["22", 0], "vae": ["4", 2]}}
    settings, said = of_graph(graph)
    assert said == []
    assert (settings["hires"], settings["hires_upscaler"]) == (2, "lanczos")


@pytest.mark.parametrize(
    ("graph", "named"),
    [
        (two(dict(BY), seed=9), "seed of the second sampler: 9"),
        (two({**BY, "upscale_method": "bislerp"}), "LatentUpscaleBy: bislerp"),
        (
            two({"kind": "LatentUpscale", "upscale_method": "bilinear", "width": 1024, "height": 1024}),
            "LatentUpscale: bilinear",
        ),
        (two({"kind": "LatentOfTomorrow"}), "LatentOfTomorrow"),
    ],
    ids=["seed", "method", "shape", "node"],
)
def test_what_is_not_plain_is_named(graph, named):
    settings, (said,) = of_graph(graph)
    assert named in said
    assert ("hires" in settings) == named.startswith("seed")


def lora(loader: str) -> dict:
    """A LoRA behind the node of a checkpoint."""
    inputs = {"lora_name": "ink.safetensors", "strength_model": 0.5, "strength_clip": 0.5}
    return {"class_type": "LoraLoader", "inputs": {**inputs, "model": [loader, 0], "clip": [loader, 1]}}


def test_a_third_sampler_leaves_the_second_one_unread():
    graph = two(dict(BY))
    graph["24"] = {
        "class_type": "LatentUpscaleBy",
        "inputs": {"samples": ["3", 0], "upscale_method": "bilinear", "scale_by": 2},
    }
    graph["25"] = {"class_type": "KSampler", "inputs": {**graph["21"]["inputs"], "cfg": 3.0, "latent_image": ["24", 0]}}
    settings, (said,) = of_graph(graph)
    assert "hires" not in settings
    assert said.count("KSampler: ") == 2


def refiner(**second) -> dict:
    graph = comfyui(_8=ON, _3={"noise_seed": 5, "add_noise": "enable", "start_at_step": 0, "end_at_step": 16,
                               "return_with_leftover_noise": "enable"})  # fmt: skip
    graph["3"]["class_type"] = "KSamplerAdvanced"
    graph["14"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "xl-refiner.safetensors"}}
    graph["16"] = {
        "class_type": "CLIPTextEncodeSDXLRefiner",
        "inputs": {"text": "a cat", "clip": ["14", 1], "ascore": 6.0},
    }
    graph["17"] = {
        "class_type": "CLIPTextEncodeSDXLRefiner",
        "inputs": {"text": "dogs", "clip": ["14", 1], "ascore": 2.5},
    }
    inputs = {**graph["3"]["inputs"], "add_noise": "disable", "start_at_step": 16, "end_at_step": 10000,
              "return_with_leftover_noise": "disable", "model": ["14", 0], "positive": ["16", 0],
              "negative": ["17", 0], "latent_image": ["3", 0]}  # fmt: skip
    graph["21"] = {"class_type": "KSamplerAdvanced", "inputs": {**inputs, **second}}
    return graph


def test_two_halves_of_a_run_are_a_refiner():
    settings, said = of_graph(refiner())
    assert said == []
    assert (settings["model"], settings["refiner"]) == ("found/v1-5", "found/xl-refiner")
    assert (settings["refiner_switch"], settings["steps"]) == (0.8, 20)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"end_at_step": 18}, "end_at_step of the refiner: 18,"),
        ({"return_with_leftover_noise": "enable"}, "return_with_leftover_noise of the refiner: enable,"),
        ({"sampler_name": "gradient_estimation"}, "sampler_name of the refiner: gradient_estimation,"),
        ({"model": ["40", 0]}, "LoRAs of the refiner: ink (0.5),"),
    ],
)
def test_what_the_refiner_alone_is_told_is_named(told, named):
    graph = {**refiner(**told), "40": lora("14")}
    settings, (said,) = of_graph(graph)
    assert settings["refiner"] == "found/xl-refiner"
    assert named in said


def test_the_refiners_seed_is_named_where_steps_draw_noise():
    _, said = of_graph(refiner(noise_seed=9))
    assert said == []
    graph = refiner(noise_seed=9, sampler_name="euler_ancestral")
    graph["3"]["inputs"]["sampler_name"] = "euler_ancestral"
    _, (said,) = of_graph(graph)
    assert "seed of the refiner: 9," in said


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"sampler_name": "gradient_estimation"}, "sampler_name of the second sampler: gradient_estimation,"),
        ({"model": ["40", 0]}, "LoRAs of the second sampler: ink (0.5),"),
    ],
)
def test_what_the_second_pass_alone_is_told_is_named(told, named):
    graph = {**two(dict(BY)), "40": lora("4")}
    graph["21"]["inputs"] |= told
    settings, (said,) = of_graph(graph)
    assert settings["hires"] == 1.5
    assert named in said


def test_halves_that_do_not_fit_are_named():
    settings, (said,) = of_graph(refiner(start_at_step=14))
    assert "refiner" not in settings
    assert "end_at_step: 16" in said
    assert "KSamplerAdvanced" in said


def test_an_image_that_was_taken_out_of_a_batch():
    graph = comfyui(_3={"latent_image": ["30", 0]}, _5={"batch_size": 4})
    graph["30"] = {"class_type": "LatentFromBatch", "inputs": {"samples": ["5", 0], "batch_index": 2, "length": 1}}
    settings, said = of_graph(graph)
    assert (str(settings["batch_index"]), settings["width"], said) == ("2", 512, [])
