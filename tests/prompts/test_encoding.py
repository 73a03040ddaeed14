"""Prompts in every syntax, wired into whole runs: against diffusers, transformers and arithmetic written out here."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.numpy import save_file

from mlxdiff import Request, StableDiffusion
from mlxdiff.conditioning import Conditioning
from mlxdiff.errors import MlxdiffWarning, ModelNotFoundError, RequestError
from mlxdiff.latents import request_in
from mlxdiff.metadata import request_of
from mlxdiff.prompts.encoding import parsed_texts
from mlxdiff.request import PROMPT_SYNTAXES
from mlxdiff.text.syntax import PARSERS

RUN = {"steps": 4, "seed": 5, "height": 32, "width": 32, "guidance_scale": 4.0, "sampler": "ddim"}
LONG = "a big red strawberry on a green plate, " * 12


def heard(pipe):
    """As in trained models, the prompt matters and the mean of its states, by which A1111 divides, is not 0."""
    for name, parameter in pipe.unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_out" in name:
            parameter.data *= 8
    dict(pipe.text_encoder.named_parameters())["final_layer_norm.bias"].data += 0.5
    return pipe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def model(name: str):
        if name not in made:
            folder = tiny.write(lambda: heard(tiny.PIPELINES[name]()), tmp_path_factory.mktemp(name))
            kind = StableDiffusionXLPipeline if name.startswith("sdxl") else StableDiffusionPipeline
            pipe = kind.from_pretrained(folder)
            pipe.set_progress_bar_config(disable=True)
            made[name] = StableDiffusion(str(folder), dtype="fp32"), pipe
        return made[name]

    return model


def last(sd: StableDiffusion, prompt, **settings) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents(prompt, **RUN | settings):
        mx.eval(latents)
    return np.array(latents)


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    error = np.mean((found.astype(np.float64) - expected) ** 2)
    return float("inf") if error == 0 else -10 * np.log10(error / np.mean(expected.astype(np.float64) ** 2))


def their_states(pipe, text: str, ids: list[int] | None = None) -> np.ndarray:
    """(77, C): transformers' last hidden state of a text, or of ids without start and end."""
    if ids is None:
        ids = pipe.tokenizer(text, add_special_tokens=False).input_ids
    row = [pipe.tokenizer.bos_token_id, *ids, pipe.tokenizer.eos_token_id]
    row += [pipe.tokenizer.pad_token_id] * (77 - len(row))
    with torch.no_grad():
        return pipe.text_encoder(torch.tensor([row])).last_hidden_state[0].numpy()


def their_prompt(pipe, prompt: str, clip_skip: int | None = None):
    if isinstance(pipe, StableDiffusionXLPipeline):
        found = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False, clip_skip=clip_skip)
        return found[0].detach().numpy(), found[2].detach().numpy()
    if not hasattr(pipe.text_encoder, "text_model"):  # diffusers asks for it, and transformers 5 has none
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    return pipe.encode_prompt(prompt, "cpu", 1, False, clip_skip=clip_skip)[0].detach().numpy(), None


def test_the_choices_are_the_parsers():
    assert set(PROMPT_SYNTAXES) == set(PARSERS)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_simple_prompt_is_the_same_picture_in_every_syntax(models, name):
    sd, _ = models(name)
    prompts = ["a red apple", "a cat, on a mat"]
    expected = last(sd, prompts, negative_prompt="worm", prompt_syntax="plain")
    for syntax in ("a1111", "comfyui", "compel"):
        assert np.array_equal(last(sd, prompts, negative_prompt="worm", prompt_syntax=syntax), expected)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_diffusers(models, name, skip):
    sd, pipe = models(name)
    for syntax, prompt in (("plain", "a red apple"), ("a1111", "a \\(red\\) apple")):
        found = sd.encode_prompt(prompt, clip_skip=skip, prompt_syntax=syntax)
        context, pooled = their_prompt(pipe, prompt.replace("\\", ""), None if skip == 1 else skip - 1)
        np.testing.assert_allclose(np.array(found.context), context, atol=2e-5)
        if pooled is not None:
            np.testing.assert_allclose(np.array(found.pooled), pooled, atol=2e-5)


def test_a_layer_that_is_not_there_is_refused(models):
    sd, _ = models("sd15")
    with pytest.raises(RequestError, match="text encoder has 3 layers"):
        sd.encode_prompt("a cat", clip_skip=4)


def test_emphasis_is_each_programs_own(models):
    sd, pipe = models("sd15")
    z = their_states(pipe, "a red apple")
    w = np.array([1, 1, 1.4, 1] + [1] * 73)[:, None]
    n = len(pipe.tokenizer("red", add_special_tokens=False).input_ids)
    assert n == 1
    a1111 = z * w * (z.mean() / (z * w).mean())
    np.testing.assert_allclose(np.array(sd.encode_prompt("a (red:1.4) apple").context[0]), a1111, atol=1e-4)
    empty = their_states(pipe, "")
    comfyui = empty + (z - empty) * w
    found = sd.encode_prompt("a (red:1.4) apple", prompt_syntax="comfyui").context[0]
    np.testing.assert_allclose(np.array(found), comfyui, atol=1e-4)
    found = sd.encode_prompt("a (red)1.4 apple", prompt_syntax="compel").context[0]
    np.testing.assert_allclose(np.array(found), comfyui, atol=1e-4)


@pytest.mark.parametrize("chunks", [2, 3])
def test_long_prompts_are_chunks_side_by_side(models, chunks):
    sd, pipe = models("sd15")
    text = "apple " * (75 * chunks - 10)
    ids = pipe.tokenizer(text, add_special_tokens=False, truncation=False).input_ids
    expected = np.concatenate([their_states(pipe, "", ids[i : i + 75]) for i in range(0, len(ids), 75)])
    found = sd.encode_prompt(text).context[0]
    assert found.shape == (77 * -(-len(ids) // 75), 32)
    np.testing.assert_allclose(np.array(found), expected, atol=2e-5)


def theirs(pipe, positive, negative, **more) -> np.ndarray:
    """diffusers' last latents (1, h, w, C) for given embeddings, at RUN's settings."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    done = pipe(
        prompt_embeds=torch.from_numpy(positive),
        negative_prompt_embeds=torch.from_numpy(negative),
        num_inference_steps=RUN["steps"],
        guidance_scale=RUN["guidance_scale"],
        height=RUN["height"],
        width=RUN["width"],
        generator=torch.Generator("cpu").manual_seed(RUN["seed"]),
        output_type="latent",
        **more,
    )
    return done.images.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("prompt", ["a [cat|dog] on a mat", "a [cat:red dog:0.5]", "[a cat::2] plate"])
def test_prompts_that_change_are_diffusers_with_other_embeddings_at_those_steps(models, prompt):
    sd, pipe = models("sd15")
    request = sd.resolve(Request(prompt, **RUN))
    part = parsed_texts(request, guided=True).prompts[prompt].parts[0]
    said = [their_states(pipe, part.entry(call).text)[None] for call in range(RUN["steps"])]
    empty = their_states(pipe, "")[None]

    def change(_pipe, step, _timestep, kwargs):
        if step + 1 < len(said):
            kwargs["prompt_embeds"] = torch.from_numpy(np.concatenate([empty, said[step + 1]]))
        return kwargs

    expected = theirs(
        pipe, said[0], empty, callback_on_step_end=change, callback_on_step_end_tensor_inputs=["prompt_embeds"]
    )
    assert decibels(last(sd, prompt), expected) > 80
    assert decibels(last(sd, part.entries[0].text), expected) < 75, "the change must matter"


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_and_is_the_weighted_sum_of_the_parts_own_directions(models, name):
    sd, _ = models(name)
    one = {"steps": 1}
    noise = mx.random.normal((1, 16, 16, 4), key=mx.random.key(0))

    def denoised(prompt: str, scale: float) -> np.ndarray:
        settings = RUN | one | {"guidance_scale": scale, "negative_prompt": "worm"}
        (step,) = sd.denoise(Request(prompt, **settings), latents=noise)
        return np.array(step.denoised)

    first, second = denoised("a red apple", 4.0), denoised("a cat", 4.0)
    # At scale s: negative + s * (prompt - negative); two scales give the negative.
    negative = first - 4 / (4 - 2) * (first - denoised("a red apple", 2.0))
    expected = negative + (first - negative) + 0.5 * (second - negative)
    found = denoised("a red apple AND a cat :0.5", 4.0)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_images_do_not_depend_on_their_neighbours(models):
    sd, _ = models("sd15")
    prompts = ["a cat", "a (red:1.3) apple", LONG, "a cat AND a dog :0.5", "a [cat|dog]", "a cat"]
    seeds = list(range(6))
    for negative in ("worm", LONG):
        together = last(sd, prompts, seed=seeds, negative_prompt=negative)
        for i, prompt in enumerate(prompts):
            alone = last(sd, prompt, seed=seeds[i], negative_prompt=negative)
            assert decibels(together[i : i + 1], alone) > 80


def test_step_caching_takes_unequal_branches(models):
    sd, _ = models("sd15")
    found = last(sd, ["a cat", LONG], seed=[1, 2], cache_interval=2, guidance_end=0.6)
    for i, prompt in enumerate(["a cat", LONG]):
        assert decibels(found[i : i + 1], last(sd, prompt, seed=i + 1, cache_interval=2, guidance_end=0.6)) > 80


def test_an_alternation_is_prepared_once_a_text(models, monkeypatch):
    sd, _ = models("sd15")
    backbone, prepared = sd.networks.backbone, []

    def counting(conditioning: Conditioning, *arguments, **options):
        prepared.append(conditioning)
        return type(backbone).prepare(backbone, conditioning, *arguments, **options)

    monkeypatch.setattr(backbone, "prepare", counting)
    last(sd, "a [cat|dog]", steps=8)
    assert len(prepared) == 2


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_textual_inversion_is_diffusers(models, tmp_path, name):
    sd, pipe = models(name)
    rows = np.random.default_rng(3).normal(size=(2, 2, 32)).astype(np.float32)
    path = tmp_path / "zebra.safetensors"
    tokens, words = {"clip_l": rows[0], "clip_g": rows[1]}, "a photo of sks here"
    if name == "sd15":
        tokens = {"sks": rows[0]}
    save_file(tokens, path)
    pipe = type(pipe).from_pretrained(pipe.config._name_or_path) if hasattr(pipe.config, "_name_or_path") else pipe
    pairs = [(pipe.tokenizer, getattr(pipe, "text_encoder", None), rows[0])]
    if name == "sdxl":
        pairs.append((pipe.tokenizer_2, pipe.text_encoder_2, rows[1]))
    for tokenizer, encoder, vectors in pairs:
        pipe.load_textual_inversion(
            {"sks": torch.from_numpy(vectors)}, token="sks", tokenizer=tokenizer, text_encoder=encoder
        )
    context, _ = their_prompt(pipe, words)
    for syntax, prompt in (("plain", words), ("a1111", words), ("comfyui", "a photo of embedding:sks here")):
        settings = {"embedding": f"{path},token=sks", "prompt_syntax": syntax}
        found = sd.encode_prompt(prompt, **settings)
        np.testing.assert_allclose(np.array(found.context), context, atol=5e-5, err_msg=syntax)
    request = sd.resolve(Request(words, embedding=[str(path)], seed=1))
    assert dict(request.hashes).keys() == {str(path)}
    assert Request.from_json(request.to_json()).embedding == request.embedding
    with pytest.warns(MlxdiffWarning, match="No prompt names the embedding zebra"):
        sd.encode_prompt("a cat", embedding=[str(path)])
    by_name = sd.encode_prompt("a photo of zebra here", embedding=str(path))
    np.testing.assert_allclose(np.array(by_name.context), context, atol=5e-5)


def test_embeddings_that_cannot_be_used_are_said(models, tmp_path):
    sd, _ = models("sd15")
    with pytest.raises(ModelNotFoundError, match="owner/name is not in the cache"):
        sd.resolve(Request("a", embedding="owner/name"))
    path = tmp_path / "wide.safetensors"
    save_file({"emb_params": np.zeros((1, 48), np.float32)}, path)
    with pytest.raises(RequestError, match="another kind of model"):
        sd.encode_prompt("a wide cat", embedding=str(path))


@pytest.mark.parametrize(
    ("syntax", "prompt", "said"),
    [
        ("a1111", "a cat <lora:style:0.8>", "<lora:style:0.8>"),
        ("compel", "a cat withLora(style, 0.8)", "<lora:style:0.8>"),
        ("compel", "a (cat).swap(dog)", r"\.swap\(\)"),
        ("comfyui", "a cat embedding:nothing", "embedding:nothing"),
    ],
)
def test_what_is_not_done_is_named_each_time(models, syntax, prompt, said):
    sd, _ = models("sd15")
    for _ in range(2):
        with pytest.warns(MlxdiffWarning, match=said):
            sd.encode_ahead([sd.resolve(Request(prompt, prompt_syntax=syntax, **RUN))])


def test_what_is_recorded_without_a_syntax_is_plain(tmp_path):
    assert request_of('{"prompt":"(a)"}').prompt_syntax == "plain"
    assert request_of('{"prompt":"(a)"}', {"prompt_syntax": "compel"}).prompt_syntax == "compel"
    found = request_in(tmp_path, {"mlxdiff": '{"prompt":"(a)"}'})
    assert found is not None
    assert found.prompt_syntax == "plain"
    assert Request.from_json('{"prompt":"(a)"}').prompt_syntax is None


def test_runs_of_other_lengths_are_encoded_anew_only_where_prompts_change(models):
    sd, _ = models("sd15")
    for prompt, differ in (("a (cat:1.2)", False), ("a [cat:dog:0.5]", True)):
        first, second = (sd.encode_ahead([sd.resolve(Request(prompt, **RUN | {"steps": n}))])[0] for n in (4, 6))
        assert (first is not second) == differ
    request = sd.resolve(Request("a [cat:dog:0.5]", **RUN))
    calls = [parsed_texts(replace(request, sampler=s), guided=True).reading.run.calls for s in ("ddim", "heun")]
    assert calls == [4, 8]
