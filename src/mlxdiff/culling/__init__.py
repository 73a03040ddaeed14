"""Choosing among many pictures by what they were made with.

language   the grammar of `--where`: a text to conditions, in the order in which they are evaluated
names      what a condition may speak of: every setting, and facts of a file
literals   what a value means beside a name: its type, a sampler in another program's words, a day
named      the files that a command names: files, folders, patterns, lists of paths
pictures   a picture as its names' values, read without its pixels
where      conditions and pictures together: which picture is chosen

Knows nothing of how pictures are rendered.
"""

from .named import Place, places
from .pictures import Picture, read
from .where import Where, parse_order

__all__ = ["Picture", "Place", "Where", "parse_order", "places", "read"]
