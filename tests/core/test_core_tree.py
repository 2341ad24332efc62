"""Paths, masks and differences of parameter trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import tree
from decoder_lab.core.errors import UserError

PARAMS = {
    "embed": {"embedding": np.zeros((8, 4), np.float32)},
    "layer_0": {"attention": {"query": {"kernel": np.zeros((4, 4), np.float32), "bias": np.zeros(4, np.float32)}}},
    "norm": {"scale": np.zeros(4, np.float16)},
}


def test_paths_are_in_the_order_of_the_leaves():
    assert list(tree.flatten(PARAMS)) == [
        "embed/embedding",
        "layer_0/attention/query/bias",
        "layer_0/attention/query/kernel",
        "norm/scale",
    ]
    for leaf, (path, same) in zip(jax.tree.leaves(PARAMS), tree.flatten(PARAMS).items(), strict=True):
        assert leaf is same, path
    assert jax.tree.leaves(tree.paths(PARAMS)) == list(tree.flatten(PARAMS))


def test_optimiser_states_have_paths_too():
    state = optax.adam(1.0).init(PARAMS)
    assert "0/mu/embed/embedding" in tree.flatten(state)


def test_masks_search_anywhere_in_the_path_and_keep_the_structure():
    found = tree.mask(PARAMS, ["bias$", r"^norm/"])
    assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
    assert {path for path, hit in tree.flatten(found).items() if hit} == {"layer_0/attention/query/bias", "norm/scale"}
    assert not any(jax.tree.leaves(tree.mask(PARAMS, [])))


def test_a_pattern_that_matches_nothing_lists_the_names():
    tree.check_patterns(PARAMS, ["kernel", "scale"], "x")
    with pytest.raises(UserError, match=r'lr_multipliers: "kernal" matches no parameter(.|\n)*layer_0/attention/query/kernel'):
        tree.check_patterns(PARAMS, ["kernel", "kernal"], "lr_multipliers")


def test_a_pattern_that_is_no_regular_expression_is_named():
    with pytest.raises(UserError, match=r'no_decay: "bias\(" is not a regular expression: .*position 4'):
        tree.check_patterns(PARAMS, ["kernel", "bias("], "no_decay")


def test_diff_says_what_is_missing_new_and_different():
    got = {
        "embed": {"embedding": np.zeros((9, 4), np.float32)},
        "layer_0": {"attention": {"query": {"kernel": np.zeros((4, 4), np.float32)}}},
        "norm": {"scale": np.zeros(4, np.float32)},
        "head": jnp.zeros(2),
    }
    assert tree.diff(PARAMS, got) == [
        "differs: embed/embedding expected float32[8,4], got float32[9,4]",
        "differs: norm/scale expected float16[4], got float32[4]",
        "missing: layer_0/attention/query/bias float32[4]",
        "not expected: head float32[2]",
    ]
    assert tree.diff(PARAMS, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))) == []


def test_sizes_of_arrays_and_of_shapes():
    for params in (PARAMS, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))):
        assert tree.count(params) == 32 + 16 + 4 + 4
        assert tree.num_bytes(params) == 4 * 52 + 2 * 4
