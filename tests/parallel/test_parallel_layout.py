"""Every parameter of every model has its rule and its place; what has none, or cannot be split, is said at once."""

import dataclasses
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import layout as layouts
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel import rules

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import all_models  # noqa: E402

ADAPTERS = r"(^|[/_])(lora|"  # of the rule for what adapters add


def layout(**sizes):
    kw = {name: sizes.pop(name) for name in ("zero1", "rules", "logical") if name in sizes}
    return layouts.Layout(meshes.make_mesh(sizes={"data": 1, **sizes}), **kw)


def specs(shardings):
    return {path: tuple(x.spec) for path, x in tree.flatten(shardings).items()}


def test_every_parameter_has_a_rule_and_every_rule_a_parameter():
    used = set()
    of_rules = layout(fsdp=8)
    for name in all_models.MODELS:
        for path, leaf in tree.flatten(all_models.shapes(name)).items():
            found = of_rules.names_of(path)
            assert found, f"{name} {path}: no rule"
            names = found[1]
            stacked = "/layers/block/" in path
            assert names == ("*",) or len(names) + stacked == len(leaf.shape), f"{name} {path} {leaf.shape}: {found}"
            used.add(found[0])
    unused = [pattern for pattern, _ in rules.RULES if pattern not in used and not pattern.startswith(ADAPTERS)]
    assert not unused
    assert {name for _, names in rules.RULES for name in names.split()} - {"*"} <= rules.LOGICAL.keys()


@pytest.mark.parametrize("sizes", [dict(fsdp=8), dict(fsdp=2, tensor=2, expert=2), dict(tensor=4, data=2, zero1=True)])
def test_every_model_fits_on_every_mesh_and_its_large_parameters_are_shared(sizes):
    """In pieces that together are the whole; with fsdp no device holds more than its share, small vectors aside."""
    where = layout(**sizes)
    for name in all_models.MODELS:
        shapes = all_models.shapes(name)
        on_one = layouts.on_a_device(shapes, where.of_params(shapes))
        whole, piece = tree.flatten(shapes), tree.flatten(on_one)
        for path, leaf in whole.items():
            shares = math.prod(leaf.shape) // max(1, math.prod(piece[path].shape))
            assert shares * math.prod(piece[path].shape) == math.prod(leaf.shape)
            if sizes.get("fsdp") == 8 and math.prod(leaf.shape) >= layouts.SMALL:
                assert shares == 8, f"{name} {path} {leaf.shape}"


def test_the_parts_of_a_transformer_lie_as_megatron_and_zero_3_say():
    found = specs(layout(fsdp=2, tensor=4).of_params(all_models.shapes("llama_scanned")))
    block = "decoder/layers/block"
    assert found[f"{block}/attention/query/kernel"] == (None, "fsdp", "tensor")
    assert found[f"{block}/attention/out/kernel"] == (None, "tensor", "fsdp")
    assert found[f"{block}/mlp/down/kernel"] == (None, "tensor", "fsdp")
    assert found[f"{block}/mlp_norm/scale"] == ()
    assert found["token_embedding/embedding"] == ("tensor", "fsdp")
    experts = specs(layout(expert=2, tensor=4).of_params(all_models.shapes("experts")))
    assert experts["decoder/layer_1/mlp/down_kernel"] == ("expert", "tensor")


def test_a_dimension_that_cannot_be_divided_gives_way_to_another_and_a_vocabulary_stays_whole():
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((66, 128), jnp.float32)}, "b": {"kernel": jax.ShapeDtypeStruct((3, 5), jnp.float32)}}
    assert specs(layout(fsdp=8).of_params(shapes)) == {"a/kernel": (None, "fsdp"), "b/kernel": ()}
    table = {"token_embedding": {"embedding": jax.ShapeDtypeStruct((257, 16), jnp.float32)}}
    assert specs(layout(data=4, tensor=2).of_params(table)) == {"token_embedding/embedding": ()}


def test_all_that_cannot_be_laid_out_is_one_error():
    shapes = {
        "layer_0": {"mlp": {"up": {"kernel": jax.ShapeDtypeStruct((16, 30), jnp.float32)}}},
        "layer_1": {"mlp": {"up": {"kernel": jax.ShapeDtypeStruct((16, 30), jnp.float32)}}},
        "hidden": {"kernel": jax.ShapeDtypeStruct((1001, 1003), jnp.float32)},
        "strange": jax.ShapeDtypeStruct((2, 2), jnp.float32),
    }
    with pytest.raises(UserError) as error:
        layout(fsdp=2, tensor=4).of_params(shapes)
    text = str(error.value)
    assert "mesh (fsdp 2 x tensor 4)" in text and text.count("\n") == 3  # layers alike are said once
    assert 'layer_0/mlp/up/kernel [16, 30]: the rule "mlp/(up|gate)/kernel$" says embed mlp; tensor=4 does not divide 30.' in text
    assert "mesh.tensor can be one of [1, 2], or mesh.logical.mlp='': whole on every device." in text
    assert "fsdp=2 does not divide 1001, nor another dimension" in text
    assert "strange [2, 2]: no rule is for it. Say in mesh.rules what its dimensions are (embed, vocab, heads," in text


def test_copies_of_the_model_need_no_rules():
    shapes = {"strange": jax.ShapeDtypeStruct((3, 5), jnp.float32)}
    assert specs(layout(data=8).of_params(shapes)) == {"strange": ()}
    assert specs(layout(data=4, context=2).of_params(shapes)) == {"strange": ()}


def config(**mesh):
    return config_lib.resolve(dict(mesh=mesh))


def test_a_config_changes_rules_and_where_they_lead():
    made = meshes.make_mesh(sizes=dict(data=4, tensor=2))
    changed = layouts.of_config(config(rules={"query/kernel$": "*"}, logical=dict(mlp="", embed="tensor")), made)
    found = specs(changed.of_params(all_models.shapes("gpt2")))
    assert found["decoder/layer_0/attention/query/kernel"] == () and found["decoder/layer_0/mlp/up/kernel"] == ("tensor",)
    with pytest.raises(UserError, match='mesh.rules: "a" names "embd". Did you mean "embed"'):
        layouts.of_config(config(rules={"a": "embd"}), made)
    with pytest.raises(UserError, match='mesh.logical.mlp: "tensors" is no axis of a mesh. Did you mean "tensor"'):
        layouts.of_config(config(logical=dict(mlp="tensors")), made)


@pytest.mark.parametrize("optimizer", [optax.adamw(1e-3), optax.adafactor(1e-3), optax.contrib.muon(1e-3), optax.sgd(1e-3, momentum=0.9)])
def test_moments_lie_as_their_parameters_and_with_zero1_in_pieces_over_data(optimizer):
    params = all_models.shapes("llama")
    state = jax.eval_shape(optimizer.init, params)
    both = layout(data=2, fsdp=2, tensor=2)
    where, pieces = specs(both.beside(state, params)), dataclasses.replace(both, zero1=True).beside(state, params)
    own = specs(both.of_params(params))
    leaves, on_one = tree.flatten(state), tree.flatten(layouts.on_a_device(state, pieces))
    matched = 0
    for path, leaf in leaves.items():
        origin = next((p for p in own if path.endswith(f"/{p}") and tree.flatten(params)[p].shape == leaf.shape), None)
        assert where[path] == (own[origin] if origin else ()), path
        if origin and origin.endswith("mlp/up/kernel"):
            matched += 1
            assert math.prod(leaf.shape) == 8 * math.prod(on_one[path].shape), "every device has its eighth"
    assert matched or "adafactor" in str(optimizer.init) or not any(path.endswith("up/kernel") for path in leaves)


def test_what_adapters_and_quantised_kernels_hold_lies_somewhere():
    where = layout(fsdp=2, tensor=4)
    shapes = {
        f"decoder/layer_0/attention/query/{name}": jax.ShapeDtypeStruct(shape, jnp.int8)
        for name, shape in dict(
            lora_a=(16, 3), lora_magnitude=(16,), kernel_int8=(16, 16), kernel_scale=(1, 16), kernel_nf4=(16, 16)
        ).items()
    }
    found = specs(where.of_params(tree.nest(shapes)))
    assert [found[path] for path in shapes] == [(), (), ("fsdp", "tensor"), (), ("fsdp", "tensor")]


def test_looking_up_a_table_in_pieces_is_exact_forwards_and_backwards():
    """Also where an index is out of range: NaN, not a neighbour's row."""
    from decoder_lab.parallel import tables

    mesh = meshes.make_mesh(sizes=dict(data=2, fsdp=2, tensor=2))
    table_VD = jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)), jnp.float32)
    indices_BT = jnp.asarray(np.random.default_rng(1).integers(0, 12, size=(8, 3)), jnp.int32)

    def through(look_up):
        def total(table_VD, pull_BTD):
            return jnp.sum(look_up(table_VD, indices_BT) * pull_BTD)

        return jax.jit(lambda table, pull, far: (look_up(table, indices_BT), jax.grad(total)(table, pull), look_up(table, far)))

    pull_BTD = jnp.asarray(np.random.default_rng(2).normal(size=(8, 3, 6)), jnp.float32)
    far_BT = jnp.full((8, 3), 12, jnp.int32)
    plain = through(lambda table, i: jnp.take(table, i, axis=0, mode="fill", fill_value=jnp.nan))(table_VD, pull_BTD, far_BT)
    ours = through(lambda table, i: tables.look_up(table, i, mesh, ("tensor",), ("fsdp",)))(table_VD, pull_BTD, far_BT)
    np.testing.assert_array_equal(ours[0], plain[0])
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-6)
    assert np.isnan(ours[2]).all() and np.isnan(plain[2]).all()
