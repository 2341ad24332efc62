"""Attention over a mesh that splits time: the same numbers, and of all that could be sent only keys and values are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from decoder_lab.ops import attention as ops
from decoder_lab.ops import position_bias
from decoder_lab.parallel import collectives
from decoder_lab.parallel import mesh as meshes

B, T, N, K, H = 4, 144, 4, 2, 8  # several blocks of queries, none of which ends where a device's part does
RULES = {
    "causal": dict(),
    "packed": dict(segments=True),
    "window": dict(segments=True, window=20),
    "both": dict(causal=None, segments=True),
    "alibi": dict(segments=True, bias_fn=functools.partial(position_bias.alibi, position_bias.alibi_slopes(N))),
}


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh(sizes=dict(data=2, context=4))


def inputs():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, T, heads, H)).astype(np.float32) for heads in (N, K, K))
    segments_BT = np.sort(rng.integers(1, 4, size=(B, T)), axis=1).astype(np.int32)
    segments_BT[:, -5:] = 0
    positions_BT = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    return q, k, v, segments_BT, positions_BT


def gradients(name):
    rules = dict(RULES[name])
    segments = rules.pop("segments", False)

    def total(q, k, v, segments_BT, positions_BT):
        places = dict(q_positions_BT=positions_BT, k_positions_BS=positions_BT)
        if segments:
            places |= dict(q_segments_BT=segments_BT, k_segments_BS=segments_BT)
        return jnp.sum(jnp.square(ops.attention(q, k, v, **rules, **places)))

    return jax.value_and_grad(total, argnums=(0, 1, 2))


@pytest.mark.parametrize("name", RULES)
def test_equals_attention_on_one_device(name, mesh):
    def on(placed):
        return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(placed, PartitionSpec("data", "context"))), inputs())

    one = jax.jit(gradients(name))(*on(meshes.make_mesh(jax.devices()[:1])))
    program = jax.jit(gradients(name)).lower(*on(mesh)).compile()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), program(*on(mesh)), one)
    sent = [c for c in collectives.of_program(program.as_text()) if c.num_bytes > B * T * 4]
    assert len(sent) <= 4 and all(np.prod(c.shapes[0]) <= B // 2 * T * K * H for c in sent), "keys, values and their gradients"
