"""Linux's control groups, by which containers and systemd limit a process: where the files are that say how much.

Of both versions: in version 2 a group is one folder; in version 1 each controller ("cpu", "memory") has its own tree.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def files(controller: str, newer: str, older: str) -> list[Path]:
    """Files that may limit this process, named `newer` in version 2 and `older` in version 1; some may be absent.

    They are those of the outermost groups, of this process' own group, and of the groups around it.
    """
    tops = _ROOT / newer, _ROOT / controller / older
    table = Path("/proc/self/cgroup")
    found = [*tops]
    for line in table.read_text(encoding="utf-8").splitlines() if table.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            top = tops[0] if controllers == "" else tops[1]
            folder = top.parent / group.lstrip("/")
            found += [around / top.name for around in (folder, *folder.parents) if around.is_relative_to(top.parent)]
    return found
