"""Errors stay readable, whatever a hostile file put into them."""

from __future__ import annotations

from mlxdiff.errors import LONGEST_PROBLEM, CheckpointError


def test_a_sentence_of_megabytes_keeps_its_ends():
    error = CheckpointError(f"The config has {'x' * 10**6}, which is none.", "Download it again.")
    assert len(error.problem) == LONGEST_PROBLEM + 3
    assert error.problem.startswith("The config has xxx")
    assert error.problem.endswith("which is none.")
    assert str(error) == f"{error.problem} Download it again."


def test_a_sentence_of_usual_length_is_left_alone():
    problem = "x" * LONGEST_PROBLEM
    assert CheckpointError(problem, "Do.").problem == problem
