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


def test_sizes_are_filled_in_and_the_innermost_axis_has_neighbours():
    made = meshes.make_mesh(sizes=dict(data=-1, context=2, tensor=2))
    assert dict(made.shape) == dict(data=2, fsdp=1, expert=1, context=2, tensor=2)
    ids = np.vectorize(lambda device: device.id)(made.devices)
    assert ids[0, 0, 0].tolist() == [[0, 1], [2, 3]]
    assert meshes.describe(made) == "data 2 x context 2 x tensor 2" and meshes.num_shares(made) == 2


@pytest.mark.parametrize(
    "sizes, said",
    [
        (dict(data=1, fsdp=3), "fsdp=3, whose product is not the number of devices, 8. The nearest that fits: data=4, fsdp=2"),
        (
            dict(data=-1, tensor=3),
            "data=-1, tensor=3, whose product does not divide the number of devices, 8. The nearest that fits: data=4, tensor=2",
        ),
        (dict(data=4, tensor=4), "The nearest that fits: data=2, tensor=4"),
        (dict(data=1, fsdp=1), "got all 1, whose product is not the number of devices, 8. The nearest that fits: data=8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(sizes, said):
    with pytest.raises(UserError) as error:
        meshes.make_mesh(sizes=sizes)
    assert said in str(error.value)


def test_only_the_named_axes_cross_slices():
    """Two slices of four devices, slow links between them: tensor and fsdp stay inside one."""
    made = meshes.make_mesh(sizes=dict(data=4, tensor=2), slices=2)
    slices = np.vectorize(lambda device: device.id // 4)(made.devices)[:, 0, 0, 0]
    assert slices.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    fsdp = meshes.make_mesh(sizes=dict(data=2, fsdp=4), slices=4, across=("data", "fsdp"))
    slices = np.vectorize(lambda device: device.id // 2)(fsdp.devices)[:, :, 0, 0, 0]
    assert slices.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    with pytest.raises(UserError, match=r"2 slices, and the axes that may cross them \(data=1\) do not divide into as many"):
        meshes.make_mesh(sizes=dict(data=1, fsdp=8), slices=2)
    with pytest.raises(UserError, match="mesh.slices: got 3, and there are 8 devices"):
        meshes.make_mesh(slices=3)


def test_time_is_split_where_it_can_be_and_rows_over_all_row_axes():
    made = meshes.make_mesh(sizes=dict(data=2, fsdp=2, context=2))
    split = meshes.shard_batch({"tokens": np.zeros((8, 6), np.int32), "labels": np.zeros(8), "odd": np.zeros((8, 5))}, made)
    assert {name: x.addressable_shards[0].data.shape for name, x in split.items()} == {"tokens": (2, 3), "labels": (2,), "odd": (2, 5)}
    assert meshes.share(made) == (0, 1)
