"""The extension's kernels against torch in double precision, for each instruction set that this processor has."""

from __future__ import annotations

import math
import time

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arrays import normal, relative_error

from mlxdiff.kernels import native

extension = native.serving()
if extension is None:
    pytest.skip(f"the extension is {native.state()}", allow_module_level=True)

ELEMENTWISE = {"silu": F.silu, "gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


@pytest.fixture(params=extension.instruction_sets(), autouse=True)
def instruction_set(request):
    before = extension.instruction_set()
    extension.use_instruction_set(request.param)
    yield request.param
    extension.use_instruction_set(before)


@pytest.fixture
def threads():
    """Sets the number of threads; OpenBLAS may need as many as there were, so that they come back."""
    before = extension.threads()
    yield extension.set_threads
    extension.set_threads(before)


def double(x: mx.array) -> torch.Tensor:
    return torch.from_numpy(np.array(x)).double()


def torch_attention(q, k, v, heads, mask=None):
    q, k, v = (double(a).unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
    mask = None if mask is None else double(mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2).numpy()


def qkv(batch, queries, keys, width):
    return (mx.array(normal(batch, n, width, seed=i)) for i, n in enumerate((queries, keys, keys)))


# -- elementwise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(7,), (2, 5, 13), (3, 64, 640), ()])
def test_activations_equal_torch(name, shape):
    x = mx.array(normal(*shape, scale=4.0))
    assert relative_error(getattr(extension, name)(x), ELEMENTWISE[name](double(x)).numpy()) < 4e-7


def test_gelu_keeps_the_digits_of_its_tail():
    x = mx.linspace(-5, -0.01, 999)
    wanted = F.gelu(double(x)).numpy()
    assert np.abs(np.array(extension.gelu(x)) / wanted - 1).max() < 3e-6


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations_of_what_is_not_finite(name):
    got = np.array(getattr(extension, name)(mx.array([math.nan, math.inf, 1e30, -1e30, 0.0])))
    assert np.isnan(got[0])
    np.testing.assert_array_equal(got[1:], [math.inf, np.float32(1e30), got[3], 0])
    assert abs(got[3]) < 1e-6


@pytest.mark.parametrize("shape", [(3, 2), (2, 5, 26), (4, 9, 640), (0, 8)])
def test_geglu_equals_torch(shape):
    x = mx.array(normal(*shape, scale=2.0))
    value, gate = double(x).chunk(2, dim=-1)
    wanted = (value * F.gelu(gate)).numpy()
    got = extension.geglu(x)
    assert got.shape == wanted.shape
    if got.size:
        assert relative_error(got, wanted) < 4e-7


# -- norms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 16, 77, 320])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_layer_norm_equals_torch(channels, mean):
    x, weight, bias = (
        mx.array(normal(*s, seed=i)) for i, s in enumerate([(2, 33, channels), (channels,), (channels,)])
    )
    x = x + mean
    wanted = F.layer_norm(double(x), (channels,), double(weight), double(bias), 1e-5).numpy()
    assert relative_error(extension.layer_norm(x, weight, bias, 1e-5), wanted) < 1e-6


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 8, 8, 320), 32), ((1, 5, 7, 30), 3), ((3, 16), 4), ((2, 300, 24), 8), ((1, 37, 11, 5), 5)],
)
@pytest.mark.parametrize("shifted", [None, "each", "all"])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_equals_torch(shape, groups, shifted, silu):
    channels = shape[-1]
    x, weight, bias = (mx.array(normal(*s, seed=i)) for i, s in enumerate([shape, (channels,), (channels,)]))
    shift = None if shifted is None else mx.array(normal(shape[0] if shifted == "each" else 1, channels, scale=3.0))
    whole = double(x).movedim(-1, 1)
    if shift is not None:
        whole = whole + double(shift).reshape(-1, channels, *[1] * (len(shape) - 2))
    wanted = F.group_norm(whole, groups, double(weight), double(bias), 1e-5).movedim(1, -1)
    wanted = F.silu(wanted) if silu else wanted
    got = extension.group_norm(x, weight, bias, groups, 1e-5, shift, silu=silu)
    assert relative_error(got, wanted.numpy()) < 1e-6


def test_group_norm_survives_a_mean_that_dwarfs_the_spread():
    x = mx.array(normal(1, 64, 64, 32, scale=0.01, shift=30.0))
    wanted = F.group_norm(double(x).movedim(-1, 1), 8, eps=1e-6).movedim(1, -1).numpy()
    assert relative_error(extension.group_norm(x, mx.ones(32), mx.zeros(32), 8, 1e-6), wanted) < 2e-5


def test_group_norm_keeps_what_is_not_finite_in_its_group():
    x = normal(2, 9, 32)
    x[1, 3, 5] = math.nan
    got = np.array(extension.group_norm(mx.array(x), mx.ones(32), mx.zeros(32), 4, 1e-5))
    assert np.isnan(got[1, :, :8]).all()
    assert np.isfinite(got[0]).all()
    assert np.isfinite(got[1, :, 8:]).all()


# -- attention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "size"),
    [(1, 77, 77, 2, 64), (2, 100, 77, 5, 40), (1, 300, 700, 3, 80), (1, 7, 3, 1, 512), (1, 257, 520, 1, 160)],
)
def test_attention_equals_torch(batch, queries, keys, heads, size):
    q, k, v = qkv(batch, queries, keys, heads * size)
    assert relative_error(extension.attention(q, k, v, heads), torch_attention(q, k, v, heads)) < 2e-6


@pytest.mark.parametrize(("heads", "size"), [(1, 1), (3, 5), (2, 13), (7, 17)])
def test_attention_of_odd_sizes(heads, size):
    q, k, v = qkv(2, 31, 29, heads * size)
    assert relative_error(extension.attention(q, k, v, heads), torch_attention(q, k, v, heads)) < 2e-6


@pytest.mark.parametrize("shape", [(31, 290), (1, 290), (2, 1, 1, 290), (2, 3, 31, 290), (3, 31, 1)])
def test_attention_with_a_mask(shape):
    q, k, v = qkv(2, 31, 290, 24)
    mask = mx.array(normal(*shape, seed=3, scale=3.0))
    got = extension.attention(q, k, v, 3, mask)
    assert relative_error(got, torch_attention(q, k, v, 3, mask)) < 2e-6


@pytest.mark.parametrize("infinity", [-math.inf, -1e9, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("length", [77, 600])
def test_attention_with_a_causal_mask(infinity, length):
    q, k, v = qkv(1, length, length, 32)
    mask = mx.array(np.triu(np.full((length, length), infinity, np.float32), 1))
    got = extension.attention(q, k, v, 2, mask)
    assert relative_error(got, torch_attention(q, k, v, 2, mask)) < 2e-6


def test_attention_where_the_first_keys_are_masked():
    q, k, v = qkv(1, 5, 600, 16)
    mask = mx.where(mx.arange(600)[None] < 400, -math.inf, 0.0)
    got = extension.attention(q, k, v, 1, mask)
    assert relative_error(got, torch_attention(q, k, v, 1, mask)) < 2e-6


def test_attention_with_scores_that_grow_from_block_to_block():
    q, k, v = qkv(1, 9, 900, 16)
    k = k * mx.linspace(0.1, 40, 900)[:, None]
    assert relative_error(extension.attention(q, k, v, 1), torch_attention(q, k, v, 1)) < 2e-5


@pytest.mark.parametrize("queries", [16, 17, 33, 48, 49, 64, 81])
@pytest.mark.parametrize("size", [24, 130])
def test_queries_of_any_number_are_grouped(queries, size):
    q, k, v = qkv(1, queries, 130, 2 * size)
    assert relative_error(extension.attention(q, k, v, 2), torch_attention(q, k, v, 2)) < 2e-6


def test_a_query_that_may_see_no_key_has_no_result():
    q, k, v = qkv(1, 20, 30, 32)
    mask = np.zeros((20, 30), np.float32)
    mask[3] = -math.inf
    got = np.array(extension.attention(q, k, v, 2, mx.array(mask)))
    assert np.isnan(got[0, 3]).all()
    assert np.isfinite(np.delete(got, 3, axis=1)).all()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0xFFC001FF, 0x7F800001])  # there are many NaNs
def test_what_is_not_finite_stays_in_its_row(bits):
    q, k, v = (np.array(a) for a in qkv(1, 20, 30, 16))
    q.view(np.uint32)[0, 7, 3] = bits
    got = np.array(extension.attention(*(mx.array(a) for a in (q, k, v)), 2))
    assert np.isnan(got[0, 7, :8]).all()
    assert np.isfinite(np.delete(got, 7, axis=1)).all()


@pytest.mark.parametrize("size", [1, 2, 5, 16, 31, 512])
@pytest.mark.parametrize("queries", [1, 15, 65])
def test_attention_reads_nothing_beside_its_inputs(size, queries):
    """Around them memory is NaN, also behind the last query, key and column."""
    width, wide = 2 * size, 2 * size + 40
    room = np.full((3, 2, 80, wide), math.nan, np.float32)
    room[:, :, :67, 3 : 3 + width] = normal(3, 2, 67, width)
    q, k, v = (a[:, :67, 3 : 3 + width] for a in mx.array(room))
    got = extension.attention(q[:, :queries], k, v, 2)
    assert relative_error(got, torch_attention(q[:, :queries], k, v, 2)) < 2e-6


# -- as MLX's own --------------------------------------------------------------------------------------------------


def test_inputs_may_lie_anyhow():
    x = mx.array(normal(40, 30, 24))
    odd = x.transpose(1, 2, 0)[3:20:2, ::2, 1:33]  # (9, 12, 32)
    wanted = F.group_norm(double(odd).movedim(-1, 1), 4, eps=1e-5).movedim(1, -1).numpy()
    assert relative_error(extension.group_norm(odd, mx.ones(32), mx.zeros(32), 4, 1e-5), wanted) < 1e-6
    assert relative_error(extension.silu(odd), F.silu(double(odd)).numpy()) < 1e-6
    assert relative_error(extension.attention(odd, odd, odd, 2), torch_attention(odd, odd, odd, 2)) < 2e-6
    one = mx.broadcast_to(mx.array([2.0]), (5, 6))
    assert relative_error(extension.geglu(one), (double(one)[:, :3] * F.gelu(double(one)[:, 3:])).numpy()) < 1e-6


def test_parts_of_one_projection_are_read_where_they_lie():
    whole = mx.array(normal(2, 50, 3 * 24))
    q, k, v = mx.split(whole, 3, axis=-1)
    assert relative_error(extension.attention(q, k, v, 3), torch_attention(q, k, v, 3)) < 2e-6


def test_an_input_that_is_used_again_keeps_its_values():
    x = mx.array(normal(64, 64))
    before = np.array(x)
    doubled = x * 2
    after = extension.silu(doubled)
    mx.eval(after + doubled, extension.layer_norm(x, mx.ones(64), mx.zeros(64), 1e-5))
    np.testing.assert_array_equal(np.array(x), before)
    np.testing.assert_array_equal(np.array(doubled), before * 2)


def test_building_the_graph_computes_nothing():
    q = mx.zeros((1, 16384, 640))
    start = time.process_time()
    for _ in range(200):
        q = extension.attention(q, q, q, 10)  # 200 times a second or more, were it computed
    assert time.process_time() - start < 1


def test_a_compiled_function_tells_parameters_apart():
    x, one, zero = mx.array(normal(4, 16)), mx.ones(16), mx.zeros(16)

    @mx.compile
    def both(x):
        return extension.layer_norm(x, one, zero, 1e-5) - extension.layer_norm(x, one, zero, 1.0)

    wanted = F.layer_norm(double(x), (16,), eps=1e-5) - F.layer_norm(double(x), (16,), eps=1.0)
    assert relative_error(both(x), wanted.numpy()) < 1e-5


def test_the_number_of_threads_changes_nothing(threads):
    q, k, v = qkv(2, 200, 300, 64)
    x = mx.array(normal(2, 700, 64))
    results = []
    for n in (1, 2, 3):
        threads(n)
        assert extension.threads() == n
        results.append([extension.attention(q, k, v, 4), extension.geglu(x)])
        mx.eval(results)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert mx.abs(a - b).max().item() < 1e-6


def test_the_bits_of_group_norm_do_not_depend_on_the_threads(threads):
    x, weight, bias = (mx.array(normal(*shape)) for shape in ((1, 64, 64, 64), (64,), (64,)))
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(np.array(extension.group_norm(x, weight, bias, 32, 1e-5, None)))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_products_of_matrices_beside_it():
    """OpenBLAS runs on the extension's threads: the two alternate many times without harm."""
    a, b = mx.array(normal(300, 400)), mx.array(normal(400, 300))
    wanted, activated = (double(a) @ double(b)).numpy(), (double(a) @ F.silu(double(b))).numpy()
    for _ in range(20):
        assert relative_error(a @ extension.silu(b), activated) < 1e-5
        assert relative_error(a @ b, wanted) < 1e-5


@pytest.mark.parametrize(
    "call",
    [
        lambda x: extension.silu(x.astype(mx.float16)),
        lambda x: extension.geglu(x[:, :3]),
        lambda x: extension.layer_norm(x, mx.ones(3), mx.zeros(4), 1e-5),
        lambda x: extension.group_norm(x, mx.ones(4), mx.zeros(4), 3, 1e-5),
        lambda x: extension.group_norm(x, mx.ones(4), mx.zeros(4), 2, 1e-5, mx.zeros((3, 4))),
        lambda x: extension.attention(x, x, x, 1),
        lambda x: extension.attention(x[None], x[None], x[None], 3),
        lambda x: extension.attention(x[None], x[None], x[None, :1], 2),
        lambda x: extension.convolve(x[None, ..., None][..., :0], mx.zeros((5, 1, 1, 0)), None, 1, 0),
        lambda _: extension.convolve(mx.zeros((1, 64, 64, 0)), mx.zeros((5, 3, 3, 0)), None, 1, 1),
        lambda _: extension.convolve(mx.zeros((1, 64, 64, 4)), mx.zeros((0, 3, 3, 4)), None, 1, 1),
        lambda _: extension.linear(mx.zeros((2, 5)), mx.zeros((3, 4)), None),
        lambda _: extension.use_instruction_set("mmx"),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match=r"\w+"):
        call(mx.zeros((2, 4)))


def test_nothing_comes_of_nothing():
    """Arrays without elements, which an integer division may not survive."""
    no_rows, weight = mx.zeros((0, 4)), mx.zeros(4)
    assert extension.silu(no_rows).tolist() == []
    assert extension.geglu(no_rows).tolist() == []
    assert extension.geglu(mx.zeros((2, 0))).tolist() == [[], []]
    assert extension.add_biased(no_rows, no_rows, weight).tolist() == []
    assert extension.layer_norm(no_rows, weight, weight, 1e-5).tolist() == []
    assert extension.linear(mx.zeros((700, 4)), mx.zeros((0, 4)), None).shape == (700, 0)
    assert extension.convolve(mx.zeros((0, 8, 8, 4)), mx.zeros((5, 3, 3, 4)), None, 1, 1).tolist() == []


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: mx.grad(lambda y: f(y).sum())(x),
        lambda f, x: mx.jvp(f, [x], [x]),
        lambda f, x: mx.vmap(f)(x),
    ],
)
def test_what_it_cannot_do_is_refused_with_what_can(transform):
    weight = mx.ones((3, 4))
    with pytest.raises(ValueError, match=r"^linear of mlxdiff's extension .* MLXDIFF_NATIVE=off"):
        transform(lambda x: extension.linear(x, weight, None), mx.ones((2, 4)))
