"""ComfyUI's SamplerCustom: what its nodes say is used or named, and a node of another kind is named."""

import json
import time
from pathlib import Path

import pytest
from oracle_schedulers import SD1
from recipes_graphs import comfyui, of_graph

from mlxdiff.diffusion.programs import program_schedule
from mlxdiff.diffusion.scheduler_config import SchedulerConfig

COMFY = json.loads((Path(__file__).parents[1] / "diffusion/recipes.json").read_text())["sigmas"]["comfy"]
LINKS = {"noise": "40", "guider": "41", "sampler": "42", "sigmas": "43"}
PARTS = {
    "40": ("RandomNoise", {"noise_seed": 12}),
    "41": ("CFGGuider", {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "cfg": 3.5}),
    "42": ("KSamplerSelect", {"sampler_name": "euler"}),
    "43": ("BasicScheduler", {"model": ["4", 0], "scheduler": "karras", "steps": 15, "denoise": 1.0}),
}


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def custom(**parts: dict) -> tuple[dict, list[str]]:
    graph = comfyui()
    links = {role: [name, 0] for role, name in LINKS.items()}
    graph["3"] = node("SamplerCustomAdvanced", **links, latent_image=["5", 0])
    graph |= {name: node(kind, **inputs) for name, (kind, inputs) in PARTS.items()}
    graph |= {LINKS.get(role, role): part for role, part in parts.items()}
    return of_graph(graph)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"sampler": node("SamplerEulerAncestral", eta=0.5, s_noise=1.1)}, {"sampler": "euler_ancestral", "eta": 0.5}),
        (
            {"sampler": node("SamplerDPMPP_2M_SDE", solver_type="heun", eta=0.2, s_noise=1.0, noise_device="gpu")},
            {"sampler": "dpmpp_2m_sde_heun", "eta": 0.2, "s_noise": 1.0},
        ),
        ({"sampler": node("SamplerDPMPP_SDE", eta=1.0, s_noise=1.0, r=0.5)}, {"sampler": "dpmpp_sde"}),
        ({"sampler": node("SamplerLMS", order=4)}, {"sampler": "lms"}),
        ({"sigmas": node("KarrasScheduler", steps=9, sigma_max=14.614642, sigma_min=0.0291675, rho=7.0)},
         {"schedule": "karras", "steps": 9}),
        ({"sigmas": node("BetaSamplingScheduler", steps=9, alpha=0.6, beta=0.6)}, {"schedule": "beta"}),
        ({"sigmas": node("AlignYourStepsScheduler", model_type="SDXL", steps=9)}, {"schedule": "ays_sdxl"}),
        ({"sigmas": node("SDTurboScheduler", model=["4", 0], steps=1, denoise=1.0)}, {"schedule": "turbo", "steps": 1}),
        ({"guider": node("BasicGuider", model=["4", 0], conditioning=["6", 0])},
         {"guidance_scale": 1.0, "prompt": "a cat"}),
        ({"sigmas": node("KarrasScheduler", steps=["50", 0], rho=7.0), "50": node("PrimitiveInt", value=11)},
         {"steps": 11}),
    ],
)  # fmt: skip
def test_what_the_nodes_say_is_used(part, expected):
    settings, said = custom(**part)
    assert said == []
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"noise": node("DisableNoise")}, "DisableNoise"),
        ({"guider": node("PerpNegGuider", positive=["6", 0], cfg=8.0, neg_scale=0.5)}, "PerpNegGuider: 8.0 0.5"),
        ({"sampler": node("SamplerER_SDE", max_stage=3)}, "SamplerER_SDE: 3"),
        ({"sampler": node("SamplerLMS", order=3)}, "order of SamplerLMS: 3"),
        ({"sigmas": node("KarrasScheduler", steps=9, sigma_max=9.0, rho=7.0)}, "sigma_max of KarrasScheduler: 9.0"),
        (
            {"sigmas": node("BetaSamplingScheduler", steps=9, alpha=0.3, beta=0.6)},
            "alpha of BetaSamplingScheduler: 0.3",
        ),
        ({"sigmas": node("SDTurboScheduler", steps=2, denoise=1.0)}, "steps of SDTurboScheduler: 2"),
        ({"sigmas": node("AlignYourStepsScheduler", model_type="SVD", steps=9)}, "model_type of AlignYourSteps"),
        ({"sigmas": node("SplitSigmas", sigmas=["50", 0], step=4), "50": node("VPScheduler", steps=9)}, "SplitSigmas"),
    ],
)
def test_what_is_not_done_is_named(part, named):
    _, (said,) = custom(**part)
    assert named in said


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_turbos_node_takes_mlxdiffs_schedule_where_that_has_comfyuis_levels(steps):
    settings, said = custom(sigmas=node("SDTurboScheduler", model=["4", 0], steps=steps, denoise=1.0))
    theirs = COMFY["comfy_sd_turbo"][str(steps)]
    ours = program_schedule("comfyui", SchedulerConfig.from_dict(SD1, "euler"), steps, "turbo")
    same = list(ours.sigmas) == pytest.approx(theirs, rel=1e-5)
    assert (settings.get("schedule") == "turbo", said == []) == (same, same)


@pytest.mark.parametrize(("told", "named"), [(True, None), (False, "add_noise: disable"), ("disable", "add_noise")])
def test_whether_a_sampler_adds_noise(told, named):
    _, said = of_graph(comfyui(_3={"add_noise": told}))
    assert (said == []) if named is None else named in said[0]


def test_the_ends_of_a_run_may_stand_in_nodes_of_their_own():
    graph = comfyui(_3={"start_at_step": ["50", 0], "end_at_step": ["51", 0]})
    graph |= {"50": node("PrimitiveInt", value=0), "51": node("PrimitiveInt", value=12)}
    _, (said,) = of_graph(graph)
    assert "end_at_step: 12" in said
    assert "start_at_step" not in said


@pytest.mark.parametrize("kind", ["SaveImage", "PreviewImage"])
def test_a_sampler_beside_the_first_is_named_and_one_whose_picture_nobody_takes_is_not_run(kind):
    graph = comfyui()
    other = node("KSampler", **graph["3"]["inputs"] | {"seed": 99})
    settings, said = of_graph({"1": other, **graph})
    assert (settings["seed"], said) == (5, [])
    shown = {"10": node("VAEDecode", samples=["1", 0]), "11": node(kind, images=["10", 0])}
    settings, (said,) = of_graph({**graph, "1": other, **shown})
    assert settings["seed"] == 5
    assert "another KSampler: 99" in said


def test_sdxls_sizes_are_named_where_they_are_not_the_pictures():
    sizes = {"width": 512, "height": 768, "target_width": 512, "target_height": 768, "crop_w": 0, "crop_h": 0}
    graph = comfyui()
    texts = {"text_g": "a cat", "text_l": "a cat", "clip": ["4", 1]}
    graph["6"] = node("CLIPTextEncodeSDXL", **texts, **sizes)
    assert of_graph(graph)[1] == []
    graph["6"]["inputs"] |= {"width": 4096, "crop_h": 8}
    _, (said,) = of_graph(graph)
    assert "CLIPTextEncodeSDXL: width 4096, crop_h 8" in said


@pytest.mark.parametrize(("scale", "is_named"), [(8.0, True), (1.0, False)])
def test_zeros_in_place_of_a_negative_prompt_are_named_where_guidance_looks_at_them(scale, is_named):
    graph = comfyui(_3={"cfg": scale})
    graph["7"] = node("ConditioningZeroOut", conditioning=["6", 0])
    _, said = of_graph(graph)
    assert bool(said) == is_named


def test_texts_that_join_each_other_take_no_time():
    graph = comfyui(_6={"text": ["50", 0]})
    graph["50"] = node("Concat", **{f"text_{place}": ["50", 0] for place in range(10)})
    graph |= {str(51 + depth): node("Concat", **{f"text_{place}": [str(52 + depth), 0] for place in range(10)})
              for depth in range(8)}  # fmt: skip
    graph["59"] = node("Text", text="a" * 1000)
    began = time.monotonic()
    of_graph(graph)
    graph["6"]["inputs"]["text"] = ["52", 0]
    settings, _ = of_graph(graph)
    assert time.monotonic() - began < 1
    assert "prompt" not in settings


def test_a_node_that_shows_a_text_says_it_once_and_one_that_changes_it_is_named():
    graph = comfyui(_6={"text": ["50", 0]})
    graph |= {"50": node("ShowText|pysssss", text=["51", 0], text_0="a dog"), "51": node("Text", text="a dog")}
    settings, said = of_graph(graph)
    assert (settings["prompt"], said) == ("a dog", [])
    graph["50"] = node("StringReplace", string="a dog", find="dog", replace="fox")
    _, (said,) = of_graph(graph)
    assert "find of StringReplace: dog, replace of StringReplace: fox" in said


def test_files_may_stand_in_nodes_of_their_own():
    graph = comfyui(_4={"ckpt_name": ["50", 0]})
    graph["50"] = node("Checkpoint Name", ckpt_name="sd/other.safetensors")
    settings, said = of_graph(graph)
    assert (settings["model"], said) == ("found/other", [])
