"""Names that files of pictures may have, and that shells, options, templates and terminals read otherwise."""

from __future__ import annotations

ODD = [
    *("-n.png", "--where.png", "a b.png", "a\nb.png", "a\tb.png", "'q'.png", '"d".png', "[x].png", "*.png"),
    *("{seed}.png", "$(x).png", "a;b.png", "é.png", "e\u0301.png", "日本語.png", "👩‍👩‍👧.png", "\u202egnp.png"),
    *("\x1b[31mred.png", "con.png", "x" * 251 + ".png", "a\\b.png", "\udcff.png", "~.PNG"),
]
