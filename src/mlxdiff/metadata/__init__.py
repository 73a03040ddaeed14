"""What a picture says about how it was made, and how that is written.

record        a Request as JSON in a picture, with the texts for other programs; and back again
parameters    A1111's text, both ways; short_hashes: the hashes in it
sheets        what a contact sheet or a sweep says
provenance    the packet that says that a model made the picture
texts         every text of a picture file by name, whatever its format
stealth       texts in the lowest bits of pixels, as NovelAI writes them
"""

from ..printable import printable
from .record import (
    MAX_JSON,
    PictureInfo,
    changed_files,
    picture_text,
    read_made,
    read_picture,
    request_from_file,
    request_of,
)

__all__ = [
    "MAX_JSON",
    "PictureInfo",
    "changed_files",
    "picture_text",
    "printable",
    "read_made",
    "read_picture",
    "request_from_file",
    "request_of",
]
