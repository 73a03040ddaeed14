"""Pictures over HTTP, for programs that speak OpenAI's images API or that of A1111's web UI.

connection  HTTP/1.1 on a socket: one request after another, each read within bounds
answers     what is answered, and refusals in the form of each API
access      who may ask: token, Host and Origin
bodies      JSON and multipart bodies
limits      how much one request may ask for
names       what of this machine a request may name
received    pictures out of a request
worker      the thread that renders, and the jobs that wait for it
kept        pictures that are fetched later by their address
openai      OpenAI's endpoints
a1111       A1111's endpoints; a1111_payload reads what they are sent, a1111_tables answers what there is
service     the endpoints together, and the socket

A request of either API becomes a Request, as a line of a prompt file does, and is rendered by the same pipeline.
"""

from .limits import Limits
from .service import Service, is_loopback

__all__ = ["Limits", "Service", "is_loopback"]
