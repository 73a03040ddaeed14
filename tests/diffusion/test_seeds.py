from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.diffusion.seeds import read_seed
from mlxdiff.errors import RequestError

LARGEST = 2**64 - 1


@pytest.mark.parametrize("program", ["a1111", "comfyui", "diffusers"])
@given(seed=st.integers(0, LARGEST))
def test_64_bits_are_a_seed_everywhere(program, seed):
    assert read_seed(seed, program) == read_seed(str(seed), program) == seed


@pytest.mark.parametrize("value", [-1, "-1", "", " -1 "])
def test_a1111_draws_a_seed(value):
    assert read_seed(value, "a1111") is None


@given(st.integers(-(2**63), -1))
def test_diffusers_takes_torchs_negative_seeds(seed):
    ours = torch.Generator().manual_seed(read_seed(seed, "diffusers"))
    assert torch.equal(torch.randn(4, generator=ours), torch.randn(4, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    ("value", "program"),
    [(-1, "comfyui"), (-2, "a1111"), (2**64, "a1111"), (2**64, "diffusers"), (-(2**63) - 1, "diffusers")],
)
def test_what_a_program_does_not_take_is_refused(value, program):
    with pytest.raises(RequestError, match=r"The seed is -?\d+\."):
        read_seed(value, program)


@pytest.mark.parametrize("value", ["x", "1.5", None, ""])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(RequestError):
        read_seed(value, "comfyui")
