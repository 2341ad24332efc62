"""Properties of the mesh: a batch lies split, parameters lie whole, and neither changes a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes


@pytest.fixture
def mesh():
    assert len(jax.devices()) == 8
    return meshes.make_mesh()


def test_each_device_holds_its_part_of_the_batch_and_all_parameters(mesh):
    batch = {"tokens": np.arange(32, dtype=np.int32).reshape(16, 2), "weights": np.ones((16, 2), np.float32)}
    split = meshes.shard_batch(batch, mesh)
    for name, array in split.items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.dtype == batch[name].dtype
        assert [s.data.shape for s in array.addressable_shards] == [(2, 2)] * 8
    whole = meshes.replicate({"w": jnp.arange(3.0), "key": jax.random.key(1)}, mesh)
    assert [s.data.shape for s in whole["w"].addressable_shards] == [(3,)] * 8
    assert whole["key"].sharding.is_fully_replicated


def test_gradients_over_many_devices_equal_those_of_one(mesh):
    """KNOWN_BUGS 2: sums over the batch are sums over all devices' parts; ragged weights included."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(16, 3)).astype(np.float32), "weights": (rng.random((16, 3)) < 0.3).astype(np.float32)}

    @jax.jit
    def gradient(params, batch):
        def loss(w):
            return jnp.sum(jnp.square(batch["x"] * w) * batch["weights"]) / jnp.sum(batch["weights"])

        return jax.grad(loss)(params)

    params = jnp.asarray([0.5, -1.0, 2.0])
    one = meshes.make_mesh(jax.devices()[:1])
    got = [gradient(meshes.replicate(params, m), meshes.shard_batch(batch, m)) for m in (one, mesh)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-6)
    assert got[1].sharding.is_fully_replicated


@pytest.mark.parametrize("size, near", [(12, "8 or 16"), (3, "take 8"), (0, "take 8"), (17, "16 or 24")])
def test_a_batch_that_cannot_be_split_is_refused_with_the_nearest_sizes_that_can(mesh, size, near):
    with pytest.raises(UserError, match=f"batch_size {size} .*8 devices.*{near}"):
        meshes.shard_batch({"tokens": np.zeros((size, 2), np.int32)}, mesh)
    meshes.check_batch_size(24, mesh)
