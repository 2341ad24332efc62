"""Layer-wise decay of the learning rate and gradual unfreezing: what becomes of finished updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.adapters.method import full
from decoder_lab.core import tree


def ones(paths):
    return tree.nest({path: jnp.ones((2, 3)) for path in paths})


def test_levels_count_from_the_top():
    paths = [
        "encoder/token_embedding/embedding",
        "encoder/recurrent/forward_0/kernel",
        "encoder/recurrent/backward_1/kernel",
        "output/kernel",
    ]
    assert tree.flatten(full.levels(ones(paths))) == {
        "encoder/token_embedding/embedding": 3,
        "encoder/recurrent/forward_0/kernel": 2,
        "encoder/recurrent/backward_1/kernel": 1,
        "output/kernel": 0,
    }
    scanned = tree.flatten(full.levels(ones(["token_embedding/embedding", "decoder/layers/block/mlp/up/kernel", "final_norm/scale"])))
    assert scanned["token_embedding/embedding"] == 3 and scanned["final_norm/scale"] == 0
    np.testing.assert_array_equal(scanned["decoder/layers/block/mlp/up/kernel"], [[2], [1]])


@pytest.mark.parametrize("scanned", [False, True])
def test_an_update_is_scaled_and_begins_by_its_level(scanned):
    paths = ["token_embedding/embedding", "decoder/layer_0/mlp/up/kernel", "decoder/layer_1/mlp/up/kernel", "final_norm/scale"]
    if scanned:
        paths = ["token_embedding/embedding", "decoder/layers/block/mlp/up/kernel", "final_norm/scale"]
    params = ones(paths)
    scaling = full.Adapter(layer_decay=0.5, unfreeze_every="5").scaling(params, 100, int)
    state = scaling.init(params)
    for step in range(18):
        updates, state = jax.jit(scaling.update)(params, state)
        flat = tree.flatten(updates)
        if scanned:
            block = flat.pop("decoder/layers/block/mlp/up/kernel")
            flat |= {"decoder/layer_0/mlp/up/kernel": block[0], "decoder/layer_1/mlp/up/kernel": block[1]}
        levels = {
            "token_embedding/embedding": 3,
            "decoder/layer_0/mlp/up/kernel": 2,
            "decoder/layer_1/mlp/up/kernel": 1,
            "final_norm/scale": 0,
        }
        for path, level in levels.items():
            np.testing.assert_array_equal(flat[path], 0.5**level if step >= 5 * level else 0.0)


def test_nothing_is_done_where_nothing_is_asked():
    assert full.Adapter().scaling(ones(["final_norm/scale"]), 100, lambda duration: 0) is None
