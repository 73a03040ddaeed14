"""What is answered, and refusals: one error, in the form that the clients of each API read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, MlxdiffError, ModelNotFoundError, RequestError, UnsupportedError
from ..printable import printable

A1111, OPENAI = "a1111", "openai"


@dataclass(frozen=True)
class Answer:
    """One answer: `body` are its bytes, of the type `kind`."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A request that is not done. `status` is HTTP's; `parameter` is what of the body is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        parameter: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, printable(message), parameter, code
        self.headers = {} if headers is None else headers

    @property
    def is_framing(self) -> bool:
        """Whether it cannot be known where the next request begins."""
        return self.code == FRAMING


FRAMING = "bad_http"


def framing(status: int, message: str) -> Refusal:
    """A request that is no sound HTTP; the connection ends with it."""
    return Refusal(status, message, code=FRAMING)


def in_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8", "replace")  # half a surrogate pair is no UTF-8
    return Answer(status, body, headers={} if headers is None else headers)


def refused(error: MlxdiffError, *, validation: int) -> Refusal:
    """An error of rendering as a refusal: `validation` is the status of what the request itself got wrong."""
    if isinstance(error, ModelNotFoundError):
        return Refusal(404, str(error), code="model_not_found")
    asked = isinstance(error, RequestError | InputError | UnsupportedError)
    return Refusal(validation if asked else 500, str(error))


def answer_of(refusal: Refusal, api: str) -> Answer:
    """In OpenAI's form `{"error": {...}}`, or in A1111's: FastAPI's `detail`, and `error` for what is no validation."""
    if api == OPENAI:
        kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
        error = {"message": refusal.message, "type": kind, "param": refusal.parameter, "code": refusal.code}
        return in_json({"error": error}, refusal.status, refusal.headers)
    if refusal.status == 422:
        where = ["body"] if refusal.parameter is None else ["body", refusal.parameter]
        detail = [{"loc": where, "msg": refusal.message, "type": "value_error"}]
        return in_json({"detail": detail}, 422, refusal.headers)
    error = {"error": "HTTPException", "detail": refusal.message, "body": "", "errors": refusal.message}
    return in_json(error, refusal.status, refusal.headers)
