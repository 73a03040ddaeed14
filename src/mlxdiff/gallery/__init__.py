"""A folder of pictures as one HTML file, which a browser opens from disk, without a network and without a server.

entries     what a picture says of itself, as the page shows it
thumbnails  small pictures, made on all cores
earlier     the thumbnails of a gallery that is written again
blocks      pictures as lines of JSON in the page
document    the page: its markup, style and script (page/), and what they are allowed
write       puts it all into a file, a hundred pictures at a time
"""

from __future__ import annotations

from .write import Added, Broken, write_gallery

__all__ = ["Added", "Broken", "write_gallery"]
