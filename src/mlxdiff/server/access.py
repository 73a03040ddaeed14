"""Who may ask: whoever knows the token; without one, programs of this machine, and no page in its browser.

A page of any site can send requests to this machine. Its browser says from where they come (`Origin`), and under which
name it knows this machine (`Host`), which is the page's own where its name server was made to say so (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
import time
from urllib.parse import urlsplit

from .answers import Refusal, framing
from .connection import Head

WRONG_S = 1.0
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


def is_loopback(name: str) -> bool:
    """Whether a host's name or address is this machine's own, which no other one reaches."""
    name = name.strip("[]").lower().rstrip(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check(head: Head, token: str | None) -> None:
    """Raises Refusal where the request comes from a web page, under a foreign name, or without the token.

    A wrong token is answered after WRONG_S, so that a connection can try one in that time. Nobody is locked out for
    wrong ones: behind a proxy all clients have one address.
    """
    host = _HOST.fullmatch(head.headers.get("host", ""))
    if host is None:
        raise framing(400, "The request names no host. Send a Host header.")
    if token is None and not is_loopback(host["name"]):
        raise Refusal(403, f"{host['name']} is no name of this machine. Ask for localhost, or start it with a token.")
    origin = head.headers.get("origin")
    if origin is not None and _place(origin) != host[0].lower():
        raise Refusal(403, "A web page of another site may not use this server. Let a program ask.")
    if head.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Refusal(403, "A web page of another site may not use this server. Let a program ask.")
    if token is not None and not _knows(head.headers.get("authorization", ""), token):
        if "authorization" in head.headers:  # one without any learns at once that there has to be one
            time.sleep(WRONG_S)
        message = "The token is missing or wrong. Send it as: Authorization: Bearer TOKEN"
        raise Refusal(
            401, message, code="invalid_api_key", headers={"WWW-Authenticate": 'Bearer, Basic realm="mlxdiff"'}
        )


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _knows(given: str, token: str) -> bool:
    """`Bearer TOKEN`, as OpenAI's clients send it, or A1111's `Basic`, whose password it is; in constant time."""
    scheme, _, value = given.partition(" ")
    value = value.strip()
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.encode("utf-8", "replace"), token.encode())
