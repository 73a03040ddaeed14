"""ComfyUI's prompt graph into a recipe: nodes by id, each a class with inputs, which are values or links [id, output].

The way back from the sampler is followed: to the prompts, the model, the first latents. A node on the way to the
picture that is not used is named, whatever its class. Of several samplers the first pass is the picture's; one behind
it is a second pass or a refiner's where that is plain (comfyui_passes.py), and else it is named, as is one beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from . import comfyui_parts, comfyui_passes, names
from .a1111 import choose
from .graph import is_node, is_sampler, link_of, links_of, reached, users_of
from .recipe import FindModel, Gathering, Recipe, object_of, shown

NAMES = ("prompt", "workflow")
# Between the sampler and the file, and adds nothing.
_PLUMBING = re.compile(r"VAEDecode$|SaveImage|PreviewImage|Image ?Save|Reroute|^Primitive|^Note|^MarkdownNote")
_SAVES = re.compile(r"Save", re.IGNORECASE)
_ADVANCED = {"add_noise": ("enable", True), "start_at_step": (0,), "return_with_leftover_noise": ("disable",)}
_SHOWS = re.compile(r"Show|Preview|Display", re.IGNORECASE)  # nodes that hold what they showed last
_SIZES = ("width", "height", "target_width", "target_height")
_SCORES = {"positive": 6.0, "negative": 2.5}  # SDXL's aesthetic scores
_VALUES = ("value", "Value", "int", "float", "number", "text", "string")  # where primitive nodes hold theirs
_DEEPEST = 64  # links that are followed in a row
_LONGEST = 2000  # nodes that are looked at
_LONGEST_TEXT = 100_000  # letters of texts that nodes join


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of a graph with a sampler in it, or None."""
    graph = object_of(texts.get("prompt"))
    if graph is None or not is_graph(graph):
        return None
    nodes = {str(name): node for name, node in list(graph.items())[:_LONGEST] if is_node(node)}
    first, beside = _first_samplers(nodes)
    return None if first is None else Way(nodes, first).recipe(find_model, beside)


def file_texts(values: Mapping[str, Any]) -> dict[str, str] | None:
    """The texts, as pictures hold them, of a JSON file of ComfyUI's: a graph, also as its API takes it, or the workflow
    that its editor saves. None of any other object."""
    graph = values.get("prompt")
    for each in (values, graph if isinstance(graph, dict) else {}):
        if is_graph(each):
            return {"prompt": json.dumps(each)}
    nodes = values.get("nodes")
    is_workflow = isinstance(nodes, list) and isinstance(values.get("links"), list)
    return {"workflow": json.dumps(values)} if is_workflow else None


def is_graph(values: Mapping[str, Any]) -> bool:
    return any(is_node(node) for node in list(values.values())[:_LONGEST])


def _first_samplers(nodes: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The sampler that no other one comes before, and others like it whose pictures are saved or shown too.

    Of several it is one whose picture is saved, or else shown, and then the one that most samplers come behind: ComfyUI
    runs no node whose output nobody takes, and its graph does not say which of its pictures this one is.
    """
    samplers = [name for name in nodes if is_sampler(nodes[name])][:20]
    links = links_of(nodes)
    before = {name: set(reached(links, name)) - {name} for name in samplers}
    users = users_of(links)
    ranks: dict[str, tuple[int, int]] = {}
    for name in (name for name in samplers if not before[name] & set(samplers)):
        behind = [other for other in reached(users, name) if not is_sampler(nodes[other])]
        ends = 2 if any(_SAVES.search(nodes[other]["class_type"]) for other in behind) else min(len(behind), 1)
        ranks[name] = ends, sum(name in others for others in before.values())
    first = max(ranks, key=lambda name: ranks[name], default=None)
    return first, [name for name, (ends, _) in ranks.items() if ends and name != first]


class Way:
    """The way back from one sampler, on which nodes are used up."""

    def __init__(self, nodes: Mapping[str, Any], sampler: str):
        self.nodes, self.sampler = nodes, sampler
        self.made = Gathering("comfyui")
        self.used = {sampler}
        self.clips: set[str] = set()  # the way back from the text encoder
        self._texts: dict[str, str | None] = {}  # what nodes hold; of one that is being looked at, nothing
        self._encoders: dict[str, str] = {}  # nodes that encode a prompt, with whose it is

    def recipe(self, find_model: FindModel | None, beside: Sequence[str] = ()) -> Recipe:
        made, inputs = self.made, self.nodes[self.sampler]["inputs"]
        parts = self.gather(find_model)
        self._latents(parts)
        _, strength = self._first(parts, ("denoise",))
        if isinstance(strength, int | float) and strength < 1:
            made.take("strength", strength, "denoise")
        shared = comfyui_passes.refined(self, find_model) or comfyui_passes.enlarged(self, find_model)
        for key, neutral in _ADVANCED.items():
            said = self.said(inputs, key)
            if key in inputs and key not in shared and said not in neutral:
                made.leave(key, said or "disable")
        end, steps = self.said(inputs, "end_at_step"), made.settings.get("steps")
        is_whole = isinstance(end, int) and (steps is None or end >= steps)
        if "end_at_step" in inputs and "end_at_step" not in shared and not is_whole:
            made.leave("end_at_step", end)
        self._sizes()
        self._rest()
        for name in beside:
            if name not in self.used:
                made.leave(f"another {self.nodes[name]['class_type']}", self._shown(name))
        made.settings["rng"] = "torch"
        made.preset(prompt_syntax="comfyui", compat="comfyui")
        return made.recipe()

    def gather(self, find_model: FindModel | None) -> list[Mapping[str, Any]]:
        """Takes what the sampler itself is told, and gives the inputs that say it."""
        made, inputs = self.made, self.nodes[self.sampler]["inputs"]
        parts = [inputs, *self._parts(inputs)]
        for setting, keys in (("seed", ("noise_seed", "seed")), ("steps", ("steps",)), ("guidance_scale", ("cfg",))):
            key, value = self._first(parts, keys)
            if key is not None:
                made.take(setting, value, key)
        self._names(parts)
        for setting, role in (("prompt", "positive"), ("negative_prompt", "negative")):
            text = self._prompt(parts, role)
            made.take(setting, text, role)
        self._model(parts, find_model)
        return parts

    def _parts(self, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The inputs of SamplerCustom's own nodes."""
        for role in comfyui_parts.ROLES:
            name = link_of(self.nodes, inputs.get(role))
            if name is not None:
                node = self.nodes[name]
                told = node["inputs"]
                if comfyui_parts.take(self.made, node["class_type"], told, partial(self.said, told)):
                    self.used.add(name)
                yield told

    def _first(self, parts: list[Mapping[str, Any]], keys: tuple[str, ...]) -> tuple[str | None, Any]:
        for inputs in parts:
            for key in keys:
                if key in inputs and (value := self.value(inputs[key], key)) is not None:
                    return key, value
        return None, None

    def said(self, inputs: Mapping[str, Any], key: str) -> Any:
        """An input's value, or the link itself where no value is to be found behind it."""
        given = inputs.get(key)
        found = self.value(given, key)
        return given if found is None else found

    def value(self, value: Any, key: str, depth: int = 0) -> Any:
        """An input's value, also where a node of primitive values holds it."""
        name = link_of(self.nodes, value)
        if name is None:
            return None if isinstance(value, list | dict) else value
        inputs = self.nodes[name]["inputs"]
        plain = [other for other in inputs.values() if not isinstance(other, list | dict)]
        keys = [other for other in (key, *_VALUES) if other in inputs]
        if depth > _DEEPEST or (not keys and len(inputs) != 1):
            return None
        self.used.add(name)
        found = inputs[keys[0]] if keys else next(iter(inputs.values()))
        return self.value(found, key, depth + 1) if plain != [found] else found

    def _names(self, parts: list[Mapping[str, Any]]) -> None:
        _, sampler = self._first(parts, ("sampler_name",))
        _, schedule = self._first(parts, ("scheduler",))
        written, planned = (value if isinstance(value, str) else "" for value in (sampler, schedule))
        ours, schedule_name = names.sampler_and_schedule(written, planned)
        choose(self.made, "sampler", ours, "sampler_name", written)
        choose(self.made, "schedule", schedule_name, "scheduler", planned)

    def _prompt(self, parts: list[Mapping[str, Any]], role: str) -> str | None:
        for inputs in parts:
            for key in (role, *(("conditioning",) if role == "positive" else ())):
                name = link_of(self.nodes, inputs.get(key))
                if name is not None:
                    return self._encoded(name, role)
        return None

    def _encoded(self, name: str | None, role: str) -> str | None:
        """The text that a conditioning encodes; nodes that change it on the way stay unused, and are then named."""
        for _ in range(_DEEPEST):
            if name is None:
                return None
            node = self.nodes[name]
            inputs = node["inputs"]
            if node["class_type"] == "ConditioningZeroOut":
                if role == "negative" and self.made.settings.get("guidance_scale") == 1:
                    self.used.add(name)  # nobody looks at it
                return None
            texts = dict.fromkeys(
                text
                for key in ("text", "text_g", "text_l", "prompt", "clip_l", "t5xxl", role, "string")
                if key in inputs and isinstance(text := self._text(inputs[key]), str)
            )
            if texts:
                self.used.add(name)
                self._encoders.setdefault(name, role)
                self._clip_skip(inputs)
                for other in list(texts)[1:]:
                    self.made.leave(f"{node['class_type']}", other)
                return next(iter(texts))
            onward = (role, "conditioning", "conditioning_to", "conditioning_1", "cond", "cond1")
            name = next((link for key in onward if (link := link_of(self.nodes, inputs.get(key))) is not None), None)
        return None

    def _text(self, value: Any, depth: int = 0) -> str | None:
        """A text, also where other nodes hold it or join it."""
        if isinstance(value, str):
            return value
        name = link_of(self.nodes, value)
        if name is None or depth > 8:
            return None
        if name not in self._texts:
            self._texts[name] = None
            self._texts[name] = self._joined(name, depth)
        return self._texts[name]

    def _joined(self, name: str, depth: int) -> str | None:
        """The text that a node holds or joins; what else it is told is named."""
        kind, inputs = self.nodes[name]["class_type"], self.nodes[name]["inputs"]
        if "clip" in inputs or "conditioning" in inputs:
            return None  # a conditioning, not a text
        keys = [key for key in inputs if re.search(r"text|string|prompt|value|wildcard", key, re.IGNORECASE)][:10]
        linked = [key for key in keys if link_of(self.nodes, inputs[key]) is not None]
        if linked and _SHOWS.search(kind):
            keys = linked
        texts = [text for key in keys if (text := self._text(inputs[key], depth + 1))]
        if not texts or sum(map(len, texts)) > _LONGEST_TEXT:
            return None
        self.used.add(name)
        joints = [key for key in ("delimiter", "separator") if isinstance(inputs.get(key), str)]
        for key, value in inputs.items():
            if isinstance(value, str) and value and key not in (*keys, *joints) and not _SHOWS.search(kind):
                self.made.leave(f"{key} of {kind}", value)
        return (inputs[joints[0]] if joints else "").join(texts)

    def _clip_skip(self, inputs: Mapping[str, Any]) -> None:
        name = link_of(self.nodes, inputs.get("clip"))
        for _ in range(_DEEPEST):
            if name is None:
                return
            self.clips.add(name)
            node = self.nodes[name]
            layer = node["inputs"].get("stop_at_clip_layer")
            if isinstance(layer, int):
                self.used.add(name)
                if "clip_skip" not in self.made.settings and layer != -1:
                    self.made.take("clip_skip", -layer, "stop_at_clip_layer")
            name = link_of(self.nodes, node["inputs"].get("clip"))

    def _model(self, parts: list[Mapping[str, Any]], find_model: FindModel | None) -> None:
        name = next((link for inputs in parts if (link := link_of(self.nodes, inputs.get("model"))) is not None), None)
        for _ in range(_DEEPEST):
            if name is None:
                return
            inputs = self.nodes[name]["inputs"]
            self._loras(name, inputs)
            for key in ("ckpt_name", "unet_name", "model_name"):
                value = inputs.get(key)
                value = value.get("content") if isinstance(value, dict) else self.value(value, key)
                if isinstance(value, str) and "model" not in inputs:
                    self.used.add(name)
                    self.made.model(re.split(r"[\\/]", value)[-1], find_model)
                    return
            name = link_of(self.nodes, inputs.get("model"))

    def _loras(self, name: str, inputs: Mapping[str, Any]) -> None:
        """What a node on the way to the model adds to it: LoraLoader, LoraLoaderModelOnly, and rgthree's of several."""
        found: list[tuple[Any, Any, Any]] = []
        file = self.value(inputs.get("lora_name"), "lora_name")
        if isinstance(file, str) and "model" in inputs:
            scale = self.value(inputs.get("strength_model", 1.0), "strength_model")
            text = self.value(inputs.get("strength_clip", scale), "strength_clip") if "clip" in inputs else 0.0
            found = [(file, scale, text)]
        else:
            rows = [
                value for value in inputs.values() if isinstance(value, dict) and isinstance(value.get("lora"), str)
            ]
            for row in rows[:100]:
                if row.get("on", True):
                    found.append((row["lora"], row.get("strength", 1.0), row.get("strengthTwo")))
        for file, scale, text in found:
            self.used.add(name)
            self.made.lora(file, scale, text if name in self.clips else 0.0)

    def _latents(self, parts: list[Mapping[str, Any]]) -> None:
        keys = ("latent_image", "latent", "samples")
        name = link_of(self.nodes, next((inputs[key] for inputs in parts for key in keys if key in inputs), None))
        for _ in range(_DEEPEST):
            if name is None:
                return
            inputs = self.nodes[name]["inputs"]
            if (
                "width" in inputs
                and "height" in inputs
                and not any(link_of(self.nodes, inputs.get(key)) for key in keys)
            ):
                self.used.add(name)
                for side in ("width", "height"):
                    self.made.take(side, self.value(inputs[side], side), side)
                count = self.said(inputs, "batch_size")
                if count not in (None, 1) and "batch_index" not in self.made.settings:
                    self.made.leave("batch_size", count)
                return
            if self.nodes[name]["class_type"] == "LatentFromBatch" and inputs.get("length") == 1:
                self.used.add(name)
                self.made.take("batch_index", inputs.get("batch_index"), "batch_index")
            name = next((link for key in keys if (link := link_of(self.nodes, inputs.get(key))) is not None), None)

    def _rest(self) -> None:
        """Names the nodes on the way to the picture that were not used."""
        links = links_of(self.nodes)
        for name in reached(links, *reached(users_of(links), self.sampler)):
            kind = self.nodes[name]["class_type"]
            if name not in self.used and not _PLUMBING.search(kind):
                self.made.leave(kind, self._shown(name))

    def _sizes(self) -> None:
        """Names SDXL's sizes and scores where they are others than the picture's own, which mlxdiff tells the model."""
        own = self.made.settings.get("width"), self.made.settings.get("height")
        for name, role in self._encoders.items():
            inputs = self.nodes[name]["inputs"]
            told = {key: self.said(inputs, key) for key in (*_SIZES, "crop_w", "crop_h", "ascore") if key in inputs}
            usual = {**dict(zip(_SIZES, own * 2, strict=True)), "crop_w": 0, "crop_h": 0, "ascore": _SCORES[role]}
            others = ", ".join(f"{key} {shown(value)}" for key, value in told.items() if value != usual[key])
            if others:
                self.made.leave(self.nodes[name]["class_type"], others)

    def _shown(self, name: str) -> str:
        """The first values of a node."""
        inputs = self.nodes[name]["inputs"]
        values = [shown(value) for value in inputs.values() if isinstance(value, str | int | float)]
        return " ".join(value for value in values[:6] if value)
