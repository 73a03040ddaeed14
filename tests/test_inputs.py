"""Only files on a disk are read: a pipe would wait for ever, and a device might never end."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from mlxdiff.errors import InputError
from mlxdiff.hashing import content_hash
from mlxdiff.images import load_picture
from mlxdiff.inputs import open_input
from mlxdiff.latents import holds_latents, load_latents, read_info
from mlxdiff.metadata import read_picture, request_from_file
from mlxdiff.trajectory import open_trajectory

READERS = [open_input, load_picture, read_picture, request_from_file, load_latents, read_info, content_hash]


@pytest.fixture(params=["pipe", "device", "endless", "socket"])
def strange(request, tmp_path) -> Path:
    path = tmp_path / "a.png"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/null")
    elif request.param == "endless":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    return path


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_what_is_no_regular_file_is_refused_at_once(strange, reader):
    start = time.process_time()
    with pytest.raises(InputError, match="it is no regular file"):
        reader(strange)
    assert time.process_time() - start < 1


def test_texts_from_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(InputError, match="it is no regular file"):
        request_from_file(tmp_path / "a.txt")


def test_neither_latents_nor_a_trajectory(strange):
    assert not holds_latents(strange)
    with open_trajectory(strange) as found:
        assert found is None


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize(("target", "words"), [("nosuch.png", "leads nowhere"), ("a.png", "symbolic links")])
def test_links_that_lead_nowhere_and_in_circles_are_told_from_what_is_not_there(tmp_path, reader, target, words):
    (tmp_path / "a.png").symlink_to(target)
    with pytest.raises(InputError, match=words):
        reader(tmp_path / "a.png")


@pytest.mark.parametrize(("what", "words"), [("picture", "There is no picture"), ("file", "There is no file")])
def test_words(tmp_path, what, words):
    with pytest.raises(InputError, match=words):
        open_input(tmp_path / "none", what)
    with pytest.raises(InputError, match="is a folder"):
        open_input(tmp_path, what)
    with pytest.raises(InputError, match="cannot be read"):
        open_input("a\0b", what)
    np.save(tmp_path / "a.npy", np.zeros(1))
    with open_input(tmp_path / "a.npy") as stream:
        assert stream.read(6) == b"\x93NUMPY"
