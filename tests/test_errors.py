"""Errors stay readable, whatever a hostile file put into them."""

from __future__ import annotations

import errno
import os

import pytest

from mlxdiff.errors import LONGEST_PROBLEM, CheckpointError, out_of_memory, says_out_of_memory


def test_a_sentence_of_megabytes_keeps_its_ends():
    error = CheckpointError(f"The config has {'x' * 10**6}, which is none.", "Download it again.")
    assert len(error.problem) == LONGEST_PROBLEM + 3
    assert error.problem.startswith("The config has xxx")
    assert error.problem.endswith("which is none.")
    assert str(error) == f"{error.problem} Download it again."


def test_a_sentence_of_usual_length_is_left_alone():
    problem = "x" * LONGEST_PROBLEM
    assert CheckpointError(problem, "Do.").problem == problem


# As MLX 0.32 and the drivers behind it word them.
LACKS = [
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    RuntimeError("[malloc_or_wait] Unable to allocate 137438953472 bytes."),
    RuntimeError("[metal::malloc] Attempting to allocate 34359738368 bytes which is greater than the maximum allowed"),
    RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallback)"),
    RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory"),
    RuntimeError("cublasCreate(&handle) failed: CUBLAS_STATUS_ALLOC_FAILED"),
]
OTHERS = [
    RuntimeError("cudaStreamSynchronize failed: an illegal memory access was encountered"),
    RuntimeError("cudaMemcpy failed: invalid argument"),
    RuntimeError("[conv] Invalid input array with 3 dimensions."),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ValueError("cannot allocate"),
]


@pytest.mark.parametrize("error", LACKS, ids=str)
def test_lack_of_memory_is_known_by_what_is_said_of_it(error):
    assert says_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_not_taken_for_it(error):
    assert not says_out_of_memory(error)


def test_lack_of_memory_says_how_much_was_tried_at_once():
    assert out_of_memory().problem == "The memory ran out, and what was computed is lost."
    assert out_of_memory(1).problem.startswith("The memory ran out rendering 1 image at once,")
    assert out_of_memory(4).problem.startswith("The memory ran out rendering 4 images at once,")
