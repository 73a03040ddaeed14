"""A1111's endpoints: a payload gives the picture that its settings give in A1111's text, and the rest is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from server_client import BASE, base64_of, picture, serving

from mlxdiff import StableDiffusion, hub
from mlxdiff.errors import MlxdiffWarning
from mlxdiff.request import Request
from mlxdiff.server.a1111_payload import fields

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SMALL = {"height": 32, "width": 32, "steps": 2}
# All that the web UI 1.10.1 describes for txt2img, at its defaults.
DEFAULTS = {
    "negative_prompt": "",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "sampler_name": None,
    "scheduler": None,
    "batch_size": 1,
    "n_iter": 1,
    "cfg_scale": 7.0,
    "restore_faces": None,
    "tiling": None,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": None,
    "denoising_strength": None,
    "s_min_uncond": None,
    "s_churn": None,
    "s_tmax": None,
    "s_tmin": None,
    "s_noise": None,
    "override_settings": None,
    "override_settings_restore_afterwards": True,
    "refiner_checkpoint": None,
    "refiner_switch_at": None,
    "disable_extra_networks": False,
    "firstpass_image": None,
    "comments": None,
    "enable_hr": False,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "hr_scale": 2.0,
    "hr_upscaler": None,
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": None,
    "hr_sampler_name": None,
    "hr_scheduler": None,
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "force_task_id": None,
    "sampler_index": "Euler",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
    "infotext": None,
}


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion("emoji", dtype="fp32")


def close(ours: Image.Image, theirs: Image.Image) -> bool:
    """Threads share out sums in another order."""
    return ours.size == theirs.size and np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


def test_a_payload_is_the_recipe_that_a1111_s_text_is(server, sd, tmp_path):
    asked = {
        **SMALL,
        "prompt": "a (red:1.2) apple",
        "negative_prompt": "blue",
        "seed": 11,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
        "cfg_scale": 6.5,
        "batch_size": 2,
        "steps": 3,
        "subseed": 4,
        "subseed_strength": 0.3,
        "override_settings": {"CLIP_stop_at_last_layers": 2, "eta_noise_seed_delta": 31337},
    }
    status, answer = server.post(TXT2IMG, asked)
    assert status == 200, answer
    (said,) = answer["warnings"]
    assert "A1111 gives all images of a batch the same seed" in said
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [11, 12]
    from mlxdiff.metadata import request_from_file

    text = tmp_path / "recipe.txt"
    text.write_text(
        "a (red:1.2) apple\nNegative prompt: blue\nSteps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5,"
        " Seed: 11, Size: 32x32, Variation seed: 4, Variation seed strength: 0.3, Clip skip: 2, ENSD: 31337"
    )
    request = request_from_file(text, given={"n_images": 2})
    with pytest.warns(MlxdiffWarning, match="counts the variation seed"):
        expected = list(sd.render(sd.resolve(request)))
    for ours, theirs, infotext in zip(answer["images"], expected, info["infotexts"], strict=True):
        assert close(picture(ours), theirs)
        assert picture(ours).text["parameters"] == theirs.info["parameters"] == infotext


def test_the_web_ui_s_defaults_ask_for_nothing(server):
    status, answer = server.post(TXT2IMG, {**DEFAULTS, **SMALL, "prompt": "a cat"})
    assert (status, answer["warnings"]) == (200, [])
    assert len(answer["images"]) == 1


def test_every_setting_with_a_name_in_a1111_s_text_is_asked_for_by_some_field():
    from mlxdiff.recipes.recipe import by_name

    reached = {name.lower() for name in fields().values()}
    named = {item.a1111.lower() for item in by_name().values() if item.a1111 is not None}
    assert named - reached == {"token merging ratio", "postprocess upscaler"}


def test_a_second_pass(server, sd):
    asked = {**SMALL, "prompt": "a cat", "seed": 2, "enable_hr": True, "hr_scale": 2, "denoising_strength": 0.6}
    status, answer = server.post(TXT2IMG, {**asked, "hr_second_pass_steps": 3, "hr_upscaler": "Latent"})
    assert (status, answer["warnings"]) == (200, [])
    (expected,) = sd.generate(
        *("a cat",),
        **{**SMALL, "seed": 2, "hires": 2, "hires_strength": 0.6, "hires_steps": 3, "hires_upscaler": "latent"},
        compat="a1111",
    )
    assert close(picture(answer["images"][0]), expected)
    status, answer = server.post(TXT2IMG, {**asked, "hr_resize_x": 64, "hr_resize_y": 48, "hr_upscaler": "4x-X"})
    assert picture(answer["images"][0]).size == (64, 48)
    one_side = server.post(TXT2IMG, {**asked, "width": 32, "height": 48, "hr_resize_y": 72})[1]
    assert picture(one_side["images"][0]).size == (48, 72)
    assert answer["warnings"] == ["Not used: Hires upscaler: 4x-X."]


def test_img2img_and_inpainting(server, sd):
    before = Image.effect_noise((32, 32), 90).convert("RGB")
    asked = {**SMALL, "prompt": "a cat", "seed": 2, "init_images": [base64_of(before)], "denoising_strength": 0.7}
    status, answer = server.post(IMG2IMG, asked)
    assert (status, answer["warnings"]) == (200, [])
    same = {**SMALL, "image": before, "strength": 0.7, "seed": 2, "compat": "a1111"}
    assert close(picture(answer["images"][0]), sd.generate("a cat", **same)[0])
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    sent = f"data:image/png;base64,{base64_of(Image.fromarray(255 - mask))}"
    painted = {"mask_blur": 2, "inpainting_fill": 0, "inpaint_full_res": False, "inpainting_mask_invert": 1}
    status, answer = server.post(IMG2IMG, {**asked, "mask": sent, **painted})
    assert (status, answer["warnings"]) == (200, [])
    (expected,) = sd.generate("a cat", **same, mask=mask, mask_blur=2, inpaint_fill="fill", inpaint_area="whole")
    assert close(picture(answer["images"][0]), expected)
    assert "init_images" not in answer["parameters"]


def test_a_transparent_picture_stands_on_white(server):
    clear = Image.effect_noise((32, 32), 90).convert("RGBA")
    clear.paste((9, 200, 30, 0), (0, 0, 16, 32))
    white = Image.alpha_composite(Image.new("RGBA", (32, 32), "white"), clear).convert("RGB")
    asked = {**SMALL, "prompt": "a cat", "seed": 2, "denoising_strength": 0.5}
    ours, theirs = (
        picture(server.post(IMG2IMG, {**asked, "init_images": [base64_of(image)]})[1]["images"][0])
        for image in (clear, white)
    )
    assert ours.tobytes() == theirs.tobytes()


def test_what_is_not_done_is_named(server):
    asked = {
        **SMALL,
        "prompt": "a cat <hypernet:x:1>",
        "restore_faces": True,
        "styles": ["film"],
        "alwayson_scripts": {"ADetailer": {"args": [True]}},
        "override_settings": {"sd_vae": "x.pt"},
        "save_images": True,
        "nonsense": 3,
    }
    status, answer = server.post(TXT2IMG, asked)
    assert status == 200
    for name in (
        "<hypernet:x:1>",
        "restore_faces",
        "styles",
        "alwayson_scripts",
        "sd_vae: x.pt",
        "save_images",
        "nonsense",
    ):
        assert any(name in said for said in answer["warnings"]), name
    assert json.loads(answer["info"])["warnings"] == answer["warnings"]


@pytest.mark.parametrize(
    ("path", "asked", "status", "words"),
    [
        (TXT2IMG, {"steps": 0}, 422, "1 to 1000"),
        (TXT2IMG, {"steps": 20.5}, 422, "whole number"),
        (TXT2IMG, {"steps": [20]}, 422, "a list"),
        (TXT2IMG, {"steps": True}, 422, "true or false"),
        (TXT2IMG, {"cfg_scale": "much"}, 422, "number"),
        (TXT2IMG, {"sampler_name": "nix"}, 422, "There is no Sampler: nix"),
        (TXT2IMG, {"scheduler": "nix"}, 422, "There is no Schedule type: nix"),
        (TXT2IMG, {"batch_size": 5}, 422, "from 1 to 4"),
        (TXT2IMG, {"batch_size": 4, "n_iter": 2}, 422, "at most 4"),
        (TXT2IMG, {"width": 0}, 422, "width is 0"),
        (TXT2IMG, {"width": 10**20}, 422, "width is"),
        (TXT2IMG, {"seed": 2**70}, 422, "seed is"),
        (TXT2IMG, {"prompt": {"a": 1}}, 422, "an object"),
        (TXT2IMG, {"override_settings": [1]}, 422, "no object"),
        (TXT2IMG, {"override_settings": {"sd_model_checkpoint": "nix"}}, 404, "nothing is downloaded"),
        (TXT2IMG, {"override_settings": {"sd_model_checkpoint": "/etc"}}, 404, "nothing is downloaded"),
        (TXT2IMG, {"prompt": "<lora:../x:1>"}, 422, "may be a path"),
        (TXT2IMG, {"enable_hr": True, "hr_scale": 99}, 422, "1 to 16"),
        (TXT2IMG, {"enable_hr": True, "hr_resize_x": [1]}, 422, "hires_size"),
        (TXT2IMG, {"enable_hr": True, "hr_resize_x": -64}, 422, "hires_size"),
        (TXT2IMG, {"enable_hr": True, "hr_prompt": "<lora:/x:1>"}, 422, "may be a path"),
        (IMG2IMG, {}, 422, "init_images"),
        (IMG2IMG, {"init_images": ["/etc/passwd"]}, 422, "not base64"),
        (IMG2IMG, {"init_images": ["http://127.0.0.1/x.png"]}, 422, "No address is fetched"),
        (IMG2IMG, {"init_images": ["aGVsbG8="]}, 422, "not a picture"),
        (IMG2IMG, {"init_images": [3]}, 422, "not text"),
        (IMG2IMG, {"init_images": [base64_of(Image.new("1", (9000, 9000)))]}, 422, "At most 16,777,216"),
    ],
)
def test_what_is_wrong_is_said_in_a1111_s_form(server, path, asked, status, words):
    got, answer = server.post(path, {**SMALL, **asked})
    assert got == status, answer
    if status == 422:
        (detail,) = answer["detail"]
        assert set(detail) == {"loc", "msg", "type"}
        assert words in detail["msg"]
    else:
        assert words in answer["detail"]


def test_the_lists(server):
    samplers = server.get("/sdapi/v1/samplers")[1]
    assert {"name", "aliases", "options"} <= samplers[0].keys()
    assert "Euler a" in [each["name"] for each in samplers]
    assert "Karras" in [each["label"] for each in server.get("/sdapi/v1/schedulers")[1]]
    assert server.get("/sdapi/v1/sd-models")[1][0]["title"] == "emoji"
    assert "pixel-art" in [each["name"] for each in server.get("/sdapi/v1/loras")[1]]
    assert server.get("/sdapi/v1/options")[1]["sd_model_checkpoint"] == "emoji"
    assert [each["name"] for each in server.get("/sdapi/v1/upscalers")[1]] == ["Lanczos", "None"]
    assert "Latent" in [each["name"] for each in server.get("/sdapi/v1/latent-upscale-modes")[1]]
    assert server.get("/sdapi/v1/progress")[1]["progress"] == 0
    assert server.get("/sdapi/v1/scripts") == (200, {"txt2img": [], "img2img": []})
    assert server.get("/sdapi/v1/sd-vae") == (200, [])
    assert server.post("/sdapi/v1/refresh-checkpoints", "") == (200, None)


def test_the_served_model_may_be_chosen_again_and_nothing_else(server):
    assert server.post("/sdapi/v1/options", {"sd_model_checkpoint": "emoji"}) == (200, None)
    for asked in ({"sd_model_checkpoint": "nix"}, {"samples_format": "jpg"}, {"sd_model_checkpoint": 3}):
        status, answer = server.post("/sdapi/v1/options", asked)
        assert (status, answer["detail"][0]["loc"]) == (422, ["body", *asked])


def test_a_sampler_is_found_by_each_name_that_the_list_has(server):
    from mlxdiff.recipes.names import sampler_and_schedule
    from mlxdiff.request import SAMPLERS

    for each in server.get("/sdapi/v1/samplers")[1]:
        assert len({sampler_and_schedule(name)[0] for name in (each["name"], *each["aliases"])} & set(SAMPLERS)) == 1


def test_the_older_name_of_a_sampler_counts_only_alone(server):
    for asked in (
        {"sampler_index": "Heun", "sampler_name": "Euler a"},
        {"sampler_name": "", "sampler_index": "Euler a"},
    ):
        _, answer = server.post(TXT2IMG, {**SMALL, "prompt": "x", **asked})
        assert json.loads(answer["info"])["sampler_name"] == "Euler a"


def test_without_pictures_the_info_is_all(server):
    status, answer = server.post(TXT2IMG, {**SMALL, "prompt": "x", "send_images": False})
    assert (status, answer["images"]) == (200, [])
    assert Request(prompt="x").prompt in json.loads(answer["info"])["infotexts"][0]


def test_a_model_that_is_served_from_a_folder_is_called_by_the_folder_s_name(tmp_path):
    folder = tmp_path / "mine"
    folder.symlink_to(hub.resolve("emoji").path, target_is_directory=True)
    base = Request(**{**BASE.values(), "model": str(folder)})
    with serving(base=base) as server:
        asked = {"prompt": "x", "seed": 1, "override_settings": {"sd_model_checkpoint": "mine"}}
        status, answer = server.post("/sdapi/v1/txt2img", asked)
        assert status == 200, answer
        info = json.loads(answer["info"])
        listed = server.get("/sdapi/v1/sd-models")[1]
        assert info["sd_model_name"] == listed[0]["title"] == "mine"
        assert server.post("/v1/images/generations", {"prompt": "x", "model": "mine"})[0] == 200
