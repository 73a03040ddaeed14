"""A1111's endpoints: `/sdapi/v1/txt2img`, `img2img`, `progress` and `interrupt`."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from .. import __version__
from ..errors import MlxdiffError
from ..images import Picture
from ..recipes.names import sampler_name
from . import a1111_payload
from .answers import Answer, in_json, refused
from .names import Names
from .worker import Job, Worker


def render(
    payload: Mapping[str, Any], names: Names, worker: Worker, is_gone: Callable[[], bool], *, from_picture: bool
) -> Answer:
    """The answer to a payload: the pictures as PNG in base64, what it asked for, and `info`, JSON in a text."""
    try:
        asked = a1111_payload.read(payload, names, worker.limits, from_picture=from_picture)
        names.check(asked.request)
        job = worker.render(asked.request, is_gone)
    except MlxdiffError as error:
        raise refused(error, validation=422) from None
    said = [*asked.said, *job.said]
    if job.interrupted:
        said.append(f"Interrupted: {len(job.pictures)} of {asked.request.batch_size} pictures are done.")
    echo = {name: value for name, value in payload.items() if name not in ("init_images", "mask")}
    images = [base64.b64encode(png(picture)).decode() for picture in job.pictures] if asked.sends else []
    return in_json(
        {"images": images, "parameters": echo, "info": json.dumps(_info(job, said, names)), "warnings": said}
    )


def png(picture: Picture) -> bytes:
    """The picture with its settings, as `mlxdiff generate` writes it."""
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _info(job: Job, said: list[str], names: Names) -> dict[str, Any]:
    """What the web UI says of a batch; of none where no picture is done."""
    recorded = [json.loads(picture.info["mlxdiff"]) for picture in job.pictures]
    first = recorded[0] if recorded else {}
    width, height = job.pictures[0].size if job.pictures else (0, 0)
    return {
        "prompt": first.get("prompt", ""),
        "all_prompts": [each.get("prompt", "") for each in recorded],
        "negative_prompt": first.get("negative_prompt", ""),
        "all_negative_prompts": [each.get("negative_prompt", "") for each in recorded],
        "seed": first.get("seed"),
        "all_seeds": [each.get("seed") for each in recorded],
        "subseed": first.get("variation_seed", first.get("seed")),
        "all_subseeds": [each.get("variation_seed", each.get("seed")) for each in recorded],
        "subseed_strength": first.get("variation_strength", 0),
        "width": width,
        "height": height,
        "sampler_name": sampler_name(first["sampler"]) if "sampler" in first else None,
        "cfg_scale": first.get("guidance_scale"),
        "steps": first.get("steps"),
        "batch_size": len(recorded),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": names.called(first.get("model")),
        "sd_model_hash": None,
        "denoising_strength": first.get("strength", first.get("hires_strength")),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [picture.info["parameters"] for picture in job.pictures],
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": first.get("clip_skip", 1),
        "is_using_inpainting_conditioning": False,
        "version": f"mlxdiff {__version__}",
        "warnings": said,
    }


def progress(worker: Worker) -> Answer:
    job, waiting = worker.progress()
    done = 0.0 if job is None or not job.steps else min(1.0, job.step / job.steps)
    seconds = 0.0 if job is None or job.began is None else time.monotonic() - job.began
    state = {
        "skipped": False,
        "interrupted": job is not None and job.interrupted,
        "job": "" if job is None else "rendering",
        "job_count": waiting + (job is not None),
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0 if job is None else job.step,
        "sampling_steps": 0 if job is None else job.steps,
    }
    left = seconds * (1 - done) / done if done else 0.0
    return in_json({"progress": done, "eta_relative": left, "state": state, "current_image": None, "textinfo": None})


def interrupt(worker: Worker) -> Answer:
    worker.interrupt()
    return in_json({})
