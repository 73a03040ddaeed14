"""`mlxdiff pull --quantize` stores a copy that `generate --quantize` then loads, as a shell runs both."""

from __future__ import annotations

import json

from program import mlxdiff


def test_a_stored_copy_gives_the_same_picture_as_without_it(tmp_path):
    draw = ("generate", "a red apple", "--quantize", "4", "--steps", "2", "--seed", "1", "--no-metadata")
    mlxdiff(*draw, "-o", "before.png", cwd=tmp_path)
    done = mlxdiff("pull", "emoji", "--quantize", "4", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["ready"] is True
    assert json.loads((tmp_path / said["quantized"] / "quantized.json").read_text())["bits"] == 4
    mlxdiff(*draw, "-o", "after.png", cwd=tmp_path)
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()


def test_other_bits_are_wrong_usage(tmp_path):
    done = mlxdiff("pull", "emoji", "--quantize", "5", cwd=tmp_path, code=2)
    assert "8 or 4" in done.stderr
