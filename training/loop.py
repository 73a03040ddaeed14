"""What train_vae.py and train_unet.py share: devices and ranks, batches of scenes, and a training that resumes."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from canvas import Plan, plan
from catalogue import Catalogue
from scenes import scene
from torch import distributed, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

SAVED_EVERY = 120  # seconds

Batch = tuple[Plan, torch.Tensor]
"""Scenes, and their captions' token ids (B, 77)."""


@dataclass(frozen=True)
class Place:
    """Where this process computes: its device, and which of how many it is."""

    device: torch.device
    rank: int
    world: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU, nothing on a CPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module as it is called in training: compiled on a GPU, its gradients averaged over ranks."""
        called: Any = module
        if self.world > 1:
            called = nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)
        return self.compiled(called)

    def compiled(self, module: Any) -> Any:
        """The module as a GPU computes it fastest; as it is on a CPU."""
        return torch.compile(module) if self.device.type == "cuda" else module

    def shared(self, value: float) -> float:
        """The first rank's number in every rank: clocks differ, and a rank that stops alone leaves others waiting."""
        if self.world == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        return told.item()

    def say(self, text: str) -> None:
        if self.leads:
            print(text, flush=True)


def start(seed: int) -> Place:
    """Joins the processes that torchrun started, or stands alone. Each rank draws other noise."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if world > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(seed + 1000 * rank)  # first values are the first rank's anyway
    return Place(device, rank, world)


class Scenes(IterableDataset[Batch]):
    """Endless batches of random scenes and their captions' token ids (B, 77), other ones in each rank and worker."""

    def __init__(self, catalogue: Catalogue, tokenizer: Any, batch: int, seed: str) -> None:
        self.catalogue, self.tokenizer, self.batch, self.seed = catalogue, tokenizer, batch, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        chance = random.Random(f"{self.seed} {worker.id if worker else 0}")
        while True:
            scenes = [scene(self.catalogue, chance) for _ in range(self.batch)]
            said = self.tokenizer(
                [each.caption for each in scenes], padding="max_length", truncation=True, max_length=77
            )
            yield plan(scenes, self.catalogue), torch.tensor(said["input_ids"])


def batches(catalogue: Catalogue, tokenizer: Any, batch: int, seed: str, workers: int) -> Iterator[Batch]:
    """Scenes as plans and tokens, made by other processes."""
    return iter(DataLoader(Scenes(catalogue, tokenizer, batch, seed), batch_size=None, num_workers=workers))


class Average:
    """The exponential moving average of a module's weights, in fp32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.module = decay, module
        self.weights = {name: value.detach().clone().float() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follows faster in the beginning, so that first values are forgotten."""
        keep = min(self.decay, (1 + step) / (10 + step))
        new = [value.detach() for value in self.module.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), new, 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the module's weights with the average; twice is as before."""
        for name, value in self.module.named_parameters():
            kept = value.detach().clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(kept)


@dataclass
class Clock:
    """How far a training is: steps done of all, and whether this run's minutes are over."""

    steps: int
    minutes: float
    warmup: int
    decay: float
    done: int = 0

    def __post_init__(self) -> None:
        self.began = self.said = time.monotonic()
        self.first = self.done

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def goes_on(self) -> bool:
        return self.done < self.steps and self.seconds < 60 * self.minutes

    def rate(self) -> float:
        """The learning rate as a fraction of its highest: a warm-up, a plateau, and a cosine to zero at the end.

        The end is that of the steps or of this run's minutes, whichever comes first; without a decay it stays high
        for a run that goes on.
        """
        if self.decay == 0:
            return min(1.0, (self.done + 1) / self.warmup)
        left = min(1 - self.done / self.steps, 1 - self.seconds / (60 * self.minutes)) / self.decay
        return min(1.0, (self.done + 1) / self.warmup, 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, left))))

    def tells(self, every: float = 10) -> bool:
        """Whether it is time for a line, every so many seconds and at the end."""
        if time.monotonic() - self.said < every and self.done != self.steps:
            return False
        self.said = time.monotonic()
        return True

    def line(self, text: str) -> str:
        pace = (self.done - self.first) / max(self.seconds, 1e-9)
        return f"step {self.done} of {self.steps}, {text}, {pace:.1f} steps/s, {self.seconds:.0f} s"


class Training:
    """A module that is trained: AdamW, the average of its weights, and the state that a killed run leaves."""

    def __init__(
        self,
        place: Place,
        module: nn.Module,
        path: Path,
        settings: dict[str, Any],
        clock: Clock,
        *,
        learning_rate: float,
        weight_decay: float,
        keep: float,
    ) -> None:
        """path: of the state. settings: what a run that goes on must have too. keep: how much the average keeps."""
        self.place, self.module, self.path, self.settings, self.clock = place, module, path, settings, clock
        self.learning_rate = learning_rate
        self.average = Average(module, keep)
        fused = place.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            module.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=fused
        )
        state = resume(path, settings, place.device)
        if state is not None:
            clock.done = clock.first = state["step"]
            module.load_state_dict(state["weights"])
            self.average.weights = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
        self.called: nn.Module = place.wrapped(module)

    def run(self, compute: Callable[[], tuple[torch.Tensor, Callable[[], str]]]) -> None:
        """Steps until the clock says no more. compute: a batch's loss, and what to tell of it when it is time."""
        saved = time.monotonic()
        while self.place.shared(self.clock.goes_on()):
            with self.place.autocast():
                loss, telling = compute()
            rate = self.place.shared(self.clock.rate())
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * rate
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self.average.update(self.clock.done)
            self.clock.done += 1
            if self.clock.tells():
                self.place.say(self.clock.line(telling()))
            if time.monotonic() - saved > SAVED_EVERY:
                self.store()
                saved = time.monotonic()
        self.store()

    def finish(self) -> None:
        """Leaves the other ranks; the module is called alone from here on.

        The averaging module goes first. With the last reference to the ranks' group it would wait in its destructor,
        holding Python's lock, for a thread of gloo that may need that lock to let go of a tensor: for ever.
        """
        self.called = self.module
        if self.place.world > 1:
            distributed.destroy_process_group()

    def store(self) -> None:
        """Writes the state, in the first rank."""
        if self.place.leads:
            parts = {"weights": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
            rest = {"step": self.clock.done, "settings": self.settings, "average": self.average.weights}
            save(self.path, {**parts, **rest})


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a state whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    beside.replace(path)


def resume(path: Path, settings: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """The state that an earlier run left, or None; SystemExit if it was another training."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise SystemExit(
            f"{path} cannot be read ({type(error).__name__}). Remove it to train from the start."
        ) from None
    if not isinstance(state, dict) or state.keys() != {"weights", "optimizer", "step", "settings", "average"}:
        raise SystemExit(f"{path} is no state of a training. Remove it, or name another folder.")
    if state["settings"] != settings:
        raise SystemExit(f"{path} was trained with {json.dumps(state['settings'])}. Give the same, or another folder.")
    return state
