"""Shapes and rows of the cache."""

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.decoding import context


def test_buckets_are_few_and_large_enough():
    sizes = [context.bucket(n) for n in range(1, 1025)]
    assert all(n <= size <= max(1.5 * n, n + 4) or n < 8 for n, size in enumerate(sizes, 1)) and sizes == sorted(sizes)
    assert all(size >= n for n, size in enumerate(sizes, 1)) and len(set(sizes)) < 20


def test_rows_move_as_by_a_gather():
    """In-place copies equal a gather on axis 0 where each source row stays; scalars are shared."""
    cache = {"h": jnp.arange(12.0).reshape(6, 2), "n": jnp.asarray(3), "deep": (jnp.arange(36).reshape(6, 2, 3),)}
    for rows in ([0, 1, 2, 3, 4, 5], [0, 0, 2, 0, 2, 5], [3, 3, 3, 3, 3, 3]):
        moved, taken = (jax.jit(f)(cache, jnp.asarray(rows)) for f in (context.move_rows, context.take_rows))
        jax.tree.map(np.testing.assert_array_equal, moved, taken)
