"""Properties of partial loading: what the rules say is loaded, everything else is named, and a mismatch is never silent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from decoder_lab.checkpoint.partial import init_from
from decoder_lab.core.errors import UserError
from decoder_lab.core.tree import flatten


def net(value, layers=("layer_0", "layer_1"), head="head", width=2):
    params = {name: {"kernel": jnp.full((width, width), value), "bias": jnp.full(width, value)} for name in layers}
    return params | {"embed": {"table": jnp.full((5, width), value)}, head: {"kernel": jnp.full((width, 3), value)}}


def came_from_source(params):
    return sorted(path for path, leaf in flatten(params).items() if (leaf == 2).all())


def test_without_rules_everything_of_the_same_name_is_loaded():
    params, report = init_from(net(1.0, head="tags"), net(2.0), {})
    assert came_from_source(params) == report.loaded == sorted(set(flatten(net(0.0))) - {"head/kernel"})
    assert (report.initial, report.unused, report.cast) == (["tags/kernel"], ["head/kernel"], {})


def test_every_parameter_of_both_sides_is_in_the_report():
    rules = {"include": ("^layer", "^head"), "exclude": ("bias$",), "rename": {"^head": "tags"}}
    params, report = init_from(net(1.0, head="tags"), net(2.0), rules)
    assert came_from_source(params) == report.loaded == ["layer_0/kernel", "layer_1/kernel", "tags/kernel"]
    assert sorted(report.loaded + report.initial) == sorted(flatten(params))
    assert report.unused == ["embed/table", "layer_0/bias", "layer_1/bias"]
    text = str(report)
    for part in ("loaded: 3", "layer_#/kernel (2)", "tags/kernel", "initial value: 3", "not used: 3", "embed/table"):
        assert part in text


def test_renames_are_applied_in_order_with_groups():
    rules = {"rename": {r"^layer_(\d+)": r"decoder/block_\1", "block_": "layer_"}, "include": ["^layer"]}
    wanted = {"decoder": net(1.0), "other": jnp.ones(1)}
    params, report = init_from(wanted, net(2.0), rules)
    assert report.loaded == [f"decoder/layer_{i}/{name}" for i in (0, 1) for name in ("bias", "kernel")]
    assert came_from_source(params) == report.loaded


def test_loaded_arrays_take_this_runs_dtype_and_sharding_and_say_so():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    params = {"w": jax.device_put(jnp.zeros((8, 2), jnp.bfloat16), sharding)}
    got, report = init_from(params, {"w": np.full((8, 2), 2.0, np.float32)}, {})
    assert got["w"].dtype == jnp.bfloat16 and got["w"].sharding == sharding
    assert report.cast == {"w": "float32 -> bfloat16"} and "float32 -> bfloat16" in str(report)


@pytest.mark.parametrize(
    "rules, parts",
    [
        ({"include": ("^encoder",)}, ("^encoder", "embed/table")),
        ({"exclude": ("kernl",)}, ("kernl", "head/kernel")),
        ({"rename": {"^haed": "tags"}}, ("^haed", "head/kernel")),
        ({"rename": {"^head": "tgas"}}, ('"head/kernel" is renamed to "tgas/kernel"', 'Did you mean "tags/kernel"', "the source has")),
        ({"rename": {"layer_1": "layer_0"}}, ('"layer_0/kernel" and "layer_1/kernel" would both become "layer_0/kernel"',)),
        ({"include": ("*",)}, ('"*" is not a regular expression',)),
        ({"rename": {"(": "x"}}, ('"(" -> "x" cannot be done', "unterminated")),
        ({"rename": {"head": r"\9"}}, ('"head" -> "\\9" cannot be done', "group")),
        ({"exclude": (".",)}, ("no path of the source", "this run has", "the source has")),
        ({"inclde": ("a",)}, ('"inclde" is not known', 'Did you mean "include"')),
    ],
)
def test_a_rule_that_does_not_do_what_it_says_is_refused(rules, parts):
    with pytest.raises(UserError) as error:
        init_from(net(1.0, head="tags"), net(2.0), rules)
    for part in parts:
        assert part in str(error.value)


def test_another_shape_is_refused_with_every_place_named():
    with pytest.raises(UserError) as error:
        init_from(net(1.0), net(2.0, width=4), {})
    assert '"embed/table" has shape (5, 2) in this run, (5, 4) in the source' in str(error.value)
    assert '"head/kernel"' in str(error.value) and '"layer_0/bias"' in str(error.value) and "first_rows" not in str(error.value)


def test_rows_behind_ours_are_left_where_the_rule_says_so():
    """A masked LM adds a mask token at the end of the vocabulary; its embeddings are the start of a classifier without one."""
    source = net(2.0) | {"embed": {"table": jnp.arange(12.0).reshape(6, 2)}}
    with pytest.raises(UserError, match=r"\(5, 2\) in this run, \(6, 2\) in the source(.|\n)*init_from.first_rows=embed/table takes"):
        init_from(net(1.0), source, {})
    params, report = init_from(net(1.0), source, {"first_rows": ("^embed", "bias$")})
    np.testing.assert_array_equal(params["embed"]["table"], np.arange(10.0).reshape(5, 2))
    assert (params["layer_0"]["bias"] == 2).all()  # as many rows here: whole
    assert report.cut == {"embed/table": "its first 5 of 6 rows"} and "loaded in part: embed/table, its first 5 of 6 rows" in str(report)
    with pytest.raises(UserError, match=r"\(5, 2\) in this run, \(4, 2\)"):  # fewer cannot do
        init_from(net(1.0), net(2.0) | {"embed": {"table": jnp.ones((4, 2))}}, {"first_rows": ("embed",)})
    with pytest.raises(UserError, match="matches no parameter"):
        init_from(net(1.0), source, {"first_rows": ("embedding",)})


def test_a_larger_vocabulary_begins_near_the_mean_of_the_old_one():
    """New rows of the table, new columns of the output; what was there is there to the bit."""
    rng = np.random.default_rng(0)
    source = net(2.0) | {"embed": {"table": jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)}}
    source["head"] = {"kernel": jnp.asarray(rng.standard_normal((2, 2)), jnp.float32)}
    with pytest.raises(UserError, match=r"\(5, 2\) in this run, \(3, 2\) in the source"):
        init_from(net(1.0), source, {})
    params, report = init_from(net(1.0), source, {"extend": ("^embed", "^head")})
    for found, old in ((params["embed"]["table"], source["embed"]["table"]), (params["head"]["kernel"].T, source["head"]["kernel"].T)):
        np.testing.assert_array_equal(found[: len(old)], old)
        mean, spread = np.mean(old, axis=0), np.std(old, axis=0)
        assert (np.abs(found[len(old) :] - mean) < 0.05 * spread).all()
    assert not np.array_equal(params["embed"]["table"][3], params["embed"]["table"][4])
    assert report.cut["embed/table"] == "all 3 of axis 0, and 2 new near their mean"
    assert (params["layer_0"]["bias"] == 2).all()


def test_learned_positions_are_stretched_to_a_longer_context():
    """Every old row is met at its place between first and last; without the rule the error says that there is one."""
    old = np.arange(5, dtype=np.float32)[:, None] * np.array([[1.0, -2.0]], np.float32)
    ours, theirs = {"position_embedding": jnp.zeros((9, 2))}, {"position_embedding": old}
    params, report = init_from(ours, theirs, {"stretch": ("position_embedding",)})
    np.testing.assert_allclose(params["position_embedding"], np.linspace(0, 4, 9)[:, None] * [[1.0, -2.0]], atol=1e-6)
    assert report.cut == {"position_embedding": "its 5 rows stretched to 9"}
    with pytest.raises(UserError, match="init_from.stretch=position_embedding interpolates"):
        init_from(ours, theirs, {})
