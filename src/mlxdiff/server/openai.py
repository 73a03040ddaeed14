"""OpenAI's endpoints: `/v1/images/generations`, `/v1/images/edits` and `/v1/models`.

Beside OpenAI's own fields a request may have any setting of a picture by its name (`steps`, `seed`, `negative_prompt`):
those that name no file. What no setting used is named in `warnings`.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from ..errors import MlxdiffError, RequestError
from ..images import FORMATS, QUALITY, Picture
from ..recipes.recipe import Gathering, by_name, leave_rest, read_value
from ..request import Request
from ..request.declarations import Choice, PartReference, Reference, declared
from ..request.pictures import PictureSource
from ..request.structured import Structured
from . import received
from .a1111 import png
from .answers import Answer, Refusal, in_json, refused
from .bodies import Part, check_text, text_of
from .kept import Kept
from .names import Names
from .worker import Job, Worker

FILES = "/v1/images/files/"
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
# Values with which a field asks for nothing; ... is any: who asks says nothing of the picture.
_ABSENT: Mapping[str, Any] = {
    "user": ...,
    "moderation": ...,
    "quality": "auto",
    "background": "auto",
    "partial_images": 0,
}
_OWN = ("prompt", "n_images", "image", "mask")  # which OpenAI's fields say


@cache
def settings() -> frozenset[str]:
    """The settings that a request may have by their names: of the picture, and of no picture file or model."""
    return frozenset(
        item.name
        for item in by_name().values()
        if item.scope == "picture" and item.name not in _OWN and not _is_of_files(item.kind)
    )


def _is_of_files(kind: Any) -> bool:
    if isinstance(kind, Structured):
        return any(_is_of_files(part.kind) or hasattr(part.kind, "one") for part in declared(kind.of))
    return isinstance(kind, PictureSource) or (isinstance(kind, Reference) and not isinstance(kind, PartReference))


def models(names: Names) -> Answer:
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "mlxdiff"} for name in names.models()]
    return in_json({"object": "list", "data": listed})


def generations(
    body: Mapping[str, Any], names: Names, worker: Worker, kept: Kept, address: str, is_gone: Callable[[], bool]
) -> Answer:
    """The answer to a JSON body."""
    return _Ask(dict(body), {}, names, worker, kept).answer(address, is_gone)


def edits(
    form: Mapping[str, Sequence[Part]],
    names: Names,
    worker: Worker,
    kept: Kept,
    address: str,
    is_gone: Callable[[], bool],
) -> Answer:
    """The answer to a form with a picture, and perhaps a mask that is transparent where it is painted."""
    try:
        given, said = _pictures(form)
    except MlxdiffError as error:
        raise refused(error, validation=400) from None
    body = {name: _typed(name, text_of(name, parts[0])) for name, parts in form.items() if not parts[0].is_file}
    return _Ask(body, given, names, worker, kept, said).answer(address, is_gone)


def _pictures(form: Mapping[str, Sequence[Part]]) -> tuple[dict[str, Any], list[str]]:
    sent = [*form.get("image", ()), *form.get("image[]", ())]
    if not sent:
        raise Refusal(400, "image is missing. Send a picture as a file of the form.", parameter="image")
    said = [f"Not used: {len(sent) - 1} of the pictures, beside the first."] if len(sent) > 1 else []
    said += [
        f"Not used: {name}." for name in form if name not in ("image", "image[]", "mask") and form[name][0].is_file
    ]
    given: dict[str, Any] = {"image": received.pixels(received.from_bytes("image", sent[0].data))}
    if form.get("mask"):
        given["mask"] = received.mask_of_transparency(received.from_bytes("mask", form["mask"][0].data))
    return given, said


def _typed(name: str, text: str) -> Any:
    """A form's fields are texts; OpenAI's numbers are read here, settings by their declaration."""
    if name in ("n", "output_compression") and re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if name == "stream" else text


class _Ask:
    """One request: its fields are taken out of `body`, and what is left is named."""

    def __init__(
        self,
        body: dict[str, Any],
        given: dict[str, Any],
        names: Names,
        worker: Worker,
        kept: Kept,
        said: Sequence[str] = (),
    ) -> None:
        self.body, self.given = {name: value for name, value in body.items() if value is not None}, given
        self.names, self.worker, self.kept = names, worker, kept
        self.said = list(said)

    def answer(self, address: str, is_gone: Callable[[], bool]) -> Answer:
        """`address` is where pictures are fetched that are answered as one."""
        fetched = self._choice("response_format", ("url", "b64_json"), "url") == "url"
        kind = self._choice("output_format", tuple(_TYPES), "png")
        quality = self._whole("output_compression", 0, 100, QUALITY)
        try:
            request = self._request()
            self.names.check(request)
            job = self.worker.render(request, is_gone)
            files = [_encoded(picture, kind, quality) for picture in job.pictures]
        except MlxdiffError as error:
            raise refused(error, validation=400) from None
        if job.interrupted:
            if not files:  # 409 and 503 alike are tried again by OpenAI's clients, unless they are told not to
                raise Refusal(409, "The request was interrupted. Ask again.", headers={"X-Should-Retry": "false"})
            self.said.append(f"Interrupted: {len(files)} of {request.batch_size} pictures are done.")
        return in_json(self._said_of(job, files, kind, address if fetched else None))

    def _said_of(self, job: Job, files: Sequence[bytes], kind: str, address: str | None) -> dict[str, Any]:
        data: list[dict[str, str]] = []
        for file in files:
            if address is None:
                data.append({"b64_json": base64.b64encode(file).decode()})
            else:
                suffix = next(ending for ending, name in FORMATS.items() if name == kind.upper())
                data.append({"url": address + FILES + self.kept.keep(file, _TYPES[kind], suffix)})
        width, height = job.pictures[0].size
        answer: dict[str, Any] = {"created": int(time.time()), "data": data, "output_format": kind}
        return answer | {"size": f"{width}x{height}", "warnings": [*self.said, *job.said]}

    def _request(self) -> Request:
        prompt = self.body.pop("prompt", None)
        if not isinstance(prompt, str):
            raise Refusal(400, "prompt is missing, or no text. Say what to draw.", parameter="prompt")
        given = {"prompt": prompt, **self.given, **self._size()}
        given["n_images"] = self._whole("n", 1, self.worker.limits.images, 1)
        if self.body.pop("stream", False):
            raise Refusal(400, "Pictures are not streamed. Leave stream out.", parameter="stream")
        name = self.body.pop("model", None)
        if name is not None:
            if not isinstance(name, str):
                raise Refusal(400, "model is no text. Name one of GET /v1/models.", parameter="model")
            given |= self.names.with_model(name)
        given |= self._settings()
        for each, value in given.items():
            if isinstance(value, str):
                check_text(each, value)
        unused = Gathering("openai")
        leave_rest(unused, self.body, _ABSENT)
        self.said += [f"Not used: {remark.problem}." for remark in unused.recipe().unused]
        return self.names.base.replaced(**given)

    def _settings(self) -> dict[str, Any]:
        return {name: _setting(name, self.body.pop(name)) for name in list(self.body) if name in settings()}

    def _size(self) -> dict[str, int]:
        size = self.body.pop("size", "auto")
        if size == "auto":
            return {}
        sides = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if sides is None:
            raise Refusal(400, "size is no size. Write it as 512x768, or auto.", parameter="size")
        return {"width": int(sides[1]), "height": int(sides[2])}

    def _choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.body.pop(name, default)
        if value not in choices:
            raise Refusal(400, f"{name} is one of {', '.join(choices)}.", parameter=name)
        return value

    def _whole(self, name: str, low: int, high: int, default: int) -> int:
        value = self.body.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Refusal(400, f"{name} is a whole number from {low} to {high}.", parameter=name)
        return value


def _encoded(picture: Picture, kind: str, quality: int) -> bytes:
    if kind == "png":
        return png(picture)
    from io import BytesIO

    stream = BytesIO()
    picture.save(stream, kind.upper(), quality=quality)
    return stream.getvalue()


def _setting(name: str, value: Any) -> Any:
    item = by_name()[name]
    if isinstance(value, str):
        check_text(name, value)
    if isinstance(item.kind, Choice):  # some names say two settings at once ("DPM++ 2M Karras"): Request splits them
        return value
    try:
        return read_value(item, value)
    except RequestError as error:
        raise Refusal(400, str(error), parameter=name) from None
