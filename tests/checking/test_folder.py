"""Folders as runs leave them, with every fault made by hand, and each named for what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from patience import WAIT
from safetensors.numpy import load_file, save_file

from mlxdiff import files
from mlxdiff.batch import claims
from mlxdiff.batch.journal import NAME, Journal, Run
from mlxdiff.batch.unfinished import RUN, Unfinished
from mlxdiff.checking import reading
from mlxdiff.checking.fault import KINDS, Fault
from mlxdiff.checking.folder import look, plan
from mlxdiff.checking.picture import Looked
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.request import Request

N_FILES = 12  # 4 pictures, each with latents and a trajectory


def faults_in(*roots: Path) -> dict[str, str]:
    """Kind by the name of the file, of everything that is found."""
    found: list[Fault] = []
    for item in look(plan(list(roots))):
        found += item.faults if isinstance(item, Looked) else [item]
    assert all(fault.kind in KINDS and fault.problem.endswith(".") for fault in found)
    named: dict[str, str] = {}
    for fault in found:
        named[fault.path.name] = f"{named[fault.path.name]}, {fault.kind}" if fault.path.name in named else fault.kind
    return named


def change(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_what_a_run_leaves_is_sound(folder):
    looked = list(look(plan([folder])))
    assert len(looked) == N_FILES
    assert all(isinstance(item, Looked) and not item.faults and item.in_journal for item in looked)
    assert {item.request.seed for item in looked if isinstance(item, Looked) and item.request} == {1, 2, 3, 4}


def test_threads_tell_the_same_in_the_same_order(folder, monkeypatch):
    (folder / "b.png").write_bytes(b"")
    found = []
    for n_threads in (1, 5):
        monkeypatch.setattr("mlxdiff.computer.cores.allowed", lambda n=n_threads: n)
        found.append(list(look(plan([folder]))))
    assert found[0] == found[1]


def test_a_flipped_byte(folder):
    change(folder / "a.png", 200)
    assert faults_in(folder) == {"a.png": "damaged, content"}


def test_a_flipped_byte_that_no_checksum_guards(folder):
    """JPEG has none: the journal's hash finds it."""
    data = (folder / "c.jpg").read_bytes()
    change(folder / "c.jpg", data.rindex(b"\xff\xda") + 40)
    assert "content" in faults_in(folder)["c.jpg"]


def test_a_file_that_was_cut(folder):
    data = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(data[:-100])
    assert faults_in(folder) == {"a.png": "damaged, content"}
    (folder / "a.png").write_bytes(b"")
    assert faults_in(folder) == {"a.png": "damaged, content"}


def test_junk_at_the_end(folder):
    with (folder / "a.png").open("ab") as file:
        file.write(b"junk")
    assert faults_in(folder) == {"a.png": "trailing, content"}


def test_a_picture_that_is_gone(folder):
    (folder / "b.png").unlink()
    (folder / "a.safetensors").unlink()
    shutil.rmtree(folder / "deep")
    kinds = {"b.png": "missing", "a.safetensors": "missing"}
    kinds |= {f"d{suffix}": "missing" for suffix in (".webp", ".safetensors", ".trajectory.safetensors")}
    assert faults_in(folder) == kinds


def test_two_pictures_that_were_swapped(folder):
    os.rename(folder / "a.png", folder / "x")
    os.rename(folder / "b.png", folder / "a.png")
    os.rename(folder / "x", folder / "b.png")
    found = faults_in(folder)
    assert found["a.png"].startswith("swapped")
    assert found["b.png"].startswith("swapped")
    assert {found[f"{name}.safetensors"] for name in "ab"} == {"beside"}  # which are still the others'


def test_latents_that_were_swapped(folder):
    for suffix in (".safetensors", ".trajectory.safetensors"):
        shutil.copy(folder / f"a{suffix}", folder / f"b{suffix}")
    assert faults_in(folder) == {"b.safetensors": "beside, swapped", "b.trajectory.safetensors": "beside, swapped"}


def test_latents_that_are_damaged(folder):
    data = (folder / "a.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(data[:-4])
    change(folder / "b.safetensors", -1)
    tensors = load_file(folder / "c.safetensors")
    tensors["latents"][0, 0, 0, 0] = np.nan
    save_file(tensors, folder / "c.safetensors", {"mlxdiff": "{}"})
    found = faults_in(folder)
    assert found["a.safetensors"] == "damaged, content"
    assert found["b.safetensors"] == "content"
    assert found["c.safetensors"].startswith("damaged")


def test_other_safetensors_files_are_let_alone(folder):
    save_file({"lora_unet.lora_down.weight": np.zeros((1, 1), np.float32)}, folder / "style.safetensors")
    (folder / "broken.safetensors").write_bytes(b"not one")
    assert faults_in(folder) == {}


def test_a_line_of_the_journal_that_was_edited(folder):
    text = (folder / NAME).read_text()
    assert '"seed":2' in text
    (folder / NAME).write_text(text.replace('"seed":2', '"seed":7'))
    assert faults_in(folder) == {NAME: "journal"}


def test_a_line_of_the_journal_that_lies(folder):
    """Written with a right sum, as by a program of somebody's."""
    journal = Journal(folder)
    one = journal.done["id1"]
    journal.append(type(one)("id1", one.path, "0" * 64, bytes=one.bytes, seed=99))
    journal.append(type(one)("id9", "../../outside.png", "0" * 64))
    journal.append(type(one)("id8", "/etc/passwd", "0" * 64))
    assert faults_in(folder) == {"a.png": "content, journal", NAME: "journal, journal"}


def test_of_a_job_with_several_lines_the_last_one_counts(folder):
    """A picture that was rendered anew under another name."""
    journal = Journal(folder)
    one = journal.done["id1"]
    os.rename(folder / "a.png", folder / "z.png")
    journal.append(replace(one, path="z.png", latents=None, trajectory=None))
    assert faults_in(folder) == {}


def test_a_run_that_renders_a_picture_anew_meanwhile(folder):
    """The journal is read before the pictures are."""
    planned = plan([folder])
    data = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes())
    journal = Journal(folder)
    two = journal.done["id2"]
    journal.append(replace(journal.done["id1"], sha256=two.sha256, bytes=two.bytes, seed=2))
    kinds = [fault.kind for item in look(planned) for fault in (item.faults if isinstance(item, Looked) else [item])]
    assert set(kinds) == {"beside"}  # latents of the picture before
    (folder / "a.png").write_bytes(data)
    assert faults_in(folder)["a.png"] == "content, journal"


def test_pictures_of_an_unfinished_run_are_held_to_its_journal(folder):
    os.rename(folder / NAME, folder / ".mlxdiff-key-token.run")
    assert faults_in(folder) == {".mlxdiff-key-token.run": "unfinished"}
    change(folder / "a.png", 70)
    assert "content" in faults_in(folder)["a.png"]


def test_a_torn_last_line(folder):
    with (folder / NAME).open("a") as file:
        file.write('{"bytes":31')
    assert faults_in(folder) == {NAME: "journal"}


def test_a_journal_that_is_no_text(folder):
    (folder / NAME).write_bytes(b"\xff" * 200_000 + b"\n")
    assert faults_in(folder) == {NAME: "journal"}
    (folder / NAME).write_bytes(b"\xff\n[]\n{}\n" + b"[" * 50_000 + b"\n")
    assert faults_in(folder) == {NAME: ", ".join(["journal"] * 4)}


def test_pictures_without_a_journal(tmp_path):
    """What other commands and programs put there is no fault."""
    write_picture(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    write_picture(tmp_path / "b.PNG", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("hello")
    (looked, other) = look(plan([tmp_path]))
    assert isinstance(looked, Looked)
    assert (looked.faults, looked.in_journal, looked.request) == ((), None, None)
    assert isinstance(other, Looked)


def test_a_picture_more_is_no_fault(folder):
    write_picture(folder / "more.png", np.zeros((4, 4, 3), np.uint8))
    assert faults_in(folder) == {}


def test_named_files_are_held_to_the_journal_above_them(folder):
    change(folder / "deep" / "d.webp", 40)
    (folder / "b.png").unlink()
    assert "content" in faults_in(folder / "deep" / "d.webp")["d.webp"]
    assert faults_in(folder / "a.png", folder / "a.safetensors") == {}


def test_the_same_file_is_looked_at_once(folder):
    assert len(list(look(plan([folder, folder / "deep", folder / "a.png", folder / ".." / "out"])))) == N_FILES


def test_another_format_than_the_name_says(tmp_path):
    write_picture(tmp_path / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    os.rename(tmp_path / "a.jpg", tmp_path / "a.png")
    assert faults_in(tmp_path) == {"a.png": "format"}


def test_what_killed_processes_left(folder):
    (folder / ".mlxdiff-00000000-1-ab.part").write_bytes(b"half")
    os.utime(folder / ".mlxdiff-00000000-1-ab.part", (0, 0))
    (folder / ".mlxdiff-abc.lock").write_bytes(b"")
    journal = Journal(folder, ".mlxdiff-key-token.run")
    journal.begin(Run("key", 1, 1))
    cells = folder / ".mlxdiff-key-other.cells"
    cells.mkdir()
    (cells / "00000.png").write_bytes(b"not looked at")
    assert faults_in(folder) == {
        ".mlxdiff-00000000-1-ab.part": "leftover",
        ".mlxdiff-abc.lock": "leftover",
        ".mlxdiff-key-token.run": "unfinished",
        ".mlxdiff-key-other.cells": "unfinished",
    }


def test_what_living_processes_have_is_let_alone(folder):
    claim = claims.take(folder, "abc")
    unfinished = Unfinished(folder, "key", RUN)
    unfinished.begin(Run("key", 1, 1))
    unfinished.journal.prepare()
    part = None

    def write(_):
        nonlocal part
        (part,) = folder.glob(files.PARTS)
        found = plan([folder])
        assert (found.found.faults, found.found.at_work) == ([], 4)

    files.atomic_write(folder / "x.png", write)
    assert part is not None
    (folder / "x.png").unlink()
    assert faults_in(folder) == {}
    assert claim is not None
    claim.release()
    unfinished.release()


def test_links_in_a_circle_and_special_files(folder):
    (folder / "circle").symlink_to(folder)
    (folder / "deep" / "up").symlink_to("..")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "link.png").symlink_to("a.png")
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.safetensors")
    names = ("itself.png", "gone.png", "device.png", "pipe.png")
    assert faults_in(folder) == dict.fromkeys(names, "unreadable")


def test_a_journal_that_is_a_pipe(tmp_path):
    write_picture(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    os.mkfifo(tmp_path / NAME)
    os.mkfifo(tmp_path / ".mlxdiff-a-b.run")
    os.mkfifo(tmp_path / ".mlxdiff-a.lock")
    found = faults_in(tmp_path)
    assert found[NAME] == "unreadable"
    assert found[".mlxdiff-a-b.run"] == "unfinished, unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(folder):
    (folder / "a.png").chmod(0)
    (folder / "deep").chmod(0)
    try:
        assert faults_in(folder)["a.png"] == faults_in(folder)["deep"] == "unreadable"
    finally:
        (folder / "deep").chmod(0o700)


def test_folders_that_lie_very_deep(tmp_path):
    """Deeper than a path may be long, and nearly as deep as Python recurses."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert faults_in(tmp_path) == {"deep": "unreadable"}
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)  # shutil's rmtree recurses


def test_a_sparse_file_of_terabytes_takes_no_time(folder):
    with (folder / "a.png").open("r+b") as file:
        file.truncate(2**40)
    with (folder / "large.safetensors").open("wb") as file:
        file.write((2**39).to_bytes(8, "little"))
        file.truncate(2**40)
    assert faults_in(folder) == {"a.png": "too-large"}


def test_a_picture_that_is_changed_all_the_time(folder, monkeypatch):
    """It is looked at twice, and the truth is told: whole at last, or changing."""
    monkeypatch.setattr(reading, "SETTLED", float(WAIT))  # however long the writer gets no core between two writes
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    path, over = folder / "more.png", threading.Event()
    write_picture(path, pixels)
    data = path.read_bytes()

    def keep_writing():
        while not over.is_set():
            path.write_bytes(data)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        found = [faults_in(folder) for _ in range(5)]
    finally:
        over.set()
        writer.join()
    assert all(one in ({}, {"more.png": "changing"}) for one in found)
    assert faults_in(folder) == {}


def test_a_picture_with_the_journals_line_of_an_earlier_version(folder):
    """Without sums and lengths, as mlxdiff 0.1 wrote them."""
    lines = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    old = [{name: value for name, value in line.items() if name not in ("sum", "bytes", "of")} for line in lines]
    (folder / NAME).write_text("".join(json.dumps(line) + "\n" for line in old))
    assert faults_in(folder) == {}
    change(folder / "a.png", 60)
    assert "content" in faults_in(folder)["a.png"]


def test_metadata_of_hostile_texts_in_names(tmp_path):
    name = "a\x1b[31m\n.png"
    write_picture(tmp_path / name, np.zeros((4, 4, 3), np.uint8), picture_text(Request("a", seed=1)))
    assert faults_in(tmp_path) == {}


def test_looking_needs_no_mlx():
    """Which takes half a second to import, and may not be there where pictures are kept."""
    code = "import sys; import mlxdiff.checking.folder, mlxdiff.checking.sample; sys.exit('mlx.core' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
