"""The fused kernel for TPUs, interpreted: it gives what the plain form gives, and so do its gradients, alone and on a mesh."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import backend
from decoder_lab.core.errors import UserError
from decoder_lab.ops import attention as ops
from decoder_lab.ops import splash_attention
from decoder_lab.parallel import topology

B, T, N, K, H = 2, 256, 4, 2, 32
CASES = {
    "causal": {},
    "window": dict(window=40),
    "packed, capped": dict(packed=True, softcap=5.0),
    "cross, padded": dict(causal=None, packed=True, num_keys=128),
}


def inputs(num_keys=T, batch=B):
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=(batch, length, heads, H)), jnp.float32) for length, heads in ((T, N), (num_keys, K), (num_keys, K))
    )
    segments = [np.zeros((batch, length), np.int32) for length in (T, num_keys)]
    for of in segments:  # two documents a row, then padding
        for row in of:
            first, last = sorted(rng.integers(1, len(row) - 8, 2))
            row[:first], row[first:last] = 1, 2
    return (q, k, v), segments if num_keys != T else [segments[0]] * 2


def arguments(packed=False, num_keys=T, batch=B, causal="rows", **more):
    arrays, (q_segments, k_segments) = inputs(num_keys, batch)
    more |= dict(q_segments_BT=q_segments, k_segments_BS=k_segments) if packed else {}
    return arrays, dict(more, causal=causal)


@pytest.fixture
def interpreted(monkeypatch):
    """A TPU, as far as `ops.attention` knows, whose kernels are interpreted."""
    monkeypatch.setattr(splash_attention, "splash", functools.partial(splash_attention.splash, interpret=True))
    with backend.compiling_for("tpu"):
        yield


@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_plain_form_and_so_do_its_gradients(case, interpreted):
    """KNOWN_BUGS 7: a query that sees nothing gives zeros, and gradients of zero."""
    arrays, kw = arguments(**CASES[case])

    def results(implementation):
        def loss(q, k, v):
            out = ops.attention(q, k, v, **kw, implementation=implementation)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)

    (_, ours), ours_gradients = results("splash")
    (_, plain), gradients = results("reference")
    np.testing.assert_allclose(ours, plain, atol=2e-5)
    for got, wanted in zip(ours_gradients, gradients, strict=True):
        np.testing.assert_allclose(got, wanted, atol=5e-5)
    if "q_segments_BT" in kw:
        assert not np.any(np.asarray(ours)[np.asarray(kw["q_segments_BT"]) == 0])


def test_on_a_mesh_each_device_has_its_rows_and_heads(interpreted):
    arrays, kw = arguments(packed=True, batch=4)
    alone = jax.jit(functools.partial(ops.attention, **kw, implementation="reference"))(*arrays)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    placed = jax.device_put(arrays, jax.NamedSharding(mesh, jax.P("data", None, "tensor")))
    attend = jax.jit(functools.partial(ops.attention, **kw, implementation="splash"))
    np.testing.assert_allclose(attend(*placed), alone, atol=2e-5)
    text = attend.lower(*placed).compile().as_text()
    assert "all-gather" not in text and "all-reduce" not in text


def test_what_it_cannot_do_is_said():
    arrays, _ = inputs()
    with pytest.raises(UserError, match="splash.*it needs a TPU, this is cpu.*attention=.auto"):
        ops.attention(*arrays, implementation="splash")
    with backend.compiling_for("tpu"), pytest.raises(UserError, match="multiples of 128, not 250 and 250; .*no prefix and no bias"):
        ops.attention(*(x[:, :250] for x in arrays), prefix_BT=jnp.ones((B, 250), jnp.int32), implementation="splash")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, of the extra tpu, is not installed")
@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_compiler_for_tpus_takes_it(head_dim):
    """Forwards and backwards in bfloat16, as a step has it; no array of weights is in memory."""
    chosen = topology.parse("v5e:2x2")
    topology.prepare(chosen)
    mesh = jax.sharding.Mesh(np.array(topology.target(chosen).devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    length = 2048
    q, k = (jax.ShapeDtypeStruct((8, length, heads, head_dim), jnp.bfloat16, sharding=rows) for heads in (8, 2))
    segments = jax.ShapeDtypeStruct((8, length), jnp.int32, sharding=rows)

    def loss(q, k, v, segments):
        out = ops.attention(q, k, v, q_segments_BT=segments, k_segments_BS=segments)
        return jnp.sum(out.astype(jnp.float32) ** 2)

    with backend.compiling_for("tpu"):
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k, segments).compile()
    assert "tpu_custom_call" in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 8 * length * length  # of one device's two rows in bfloat16: 64 MB
