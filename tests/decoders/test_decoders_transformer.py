"""The Transformer decoder with a memory: caches, padding, documents, prefixes, causality, scanning, attention weights."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.decoders.transformer import VARIANTS, Decoder, problems
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.memory import Memory

pytestmark = pytest.mark.usefixtures("strict_numerics")
V, B, T, S, D = 11, 3, 9, 6, 12
TINY = dict(num_layers=2, num_heads=2, width=8, init_stddev=0.4)
FLAVOURS = {
    "vaswani": dict(norm_position="post", position="sinusoidal", mlp="relu", scale_embeddings=True),
    "t5": dict(norm="rms", position="t5", use_bias=False, attention_scale=1.0, logits_scale=0.35, num_kv_heads=1),
    "bart": dict(norm_position="post", embedding_norm=True, logits_bias=True, tie_embeddings=False),
    "llama": dict(norm="rms", position="rotary", mlp="swiglu", parallel_residual=True, qk_norm=True),
    "window": dict(norm_position="sandwich", position="alibi", window=3, cross_window=2),
    "additive": dict(score="additive"),
    "scanned": dict(scan_layers=True, cross_window=3, cross_predict_centre=True),
}
each_flavour = pytest.mark.parametrize("flavour", sorted(FLAVOURS))
some_flavours = pytest.mark.parametrize("flavour", ["t5", "additive", "window", "scanned"])
X = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
VALUES = jax.random.normal(jax.random.key(7), (B, S, D))
MEMORY = Memory(VALUES, jnp.asarray([[1] * 6, [0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]))
WILD = MEMORY.replace(values_BSD=jnp.where(MEMORY.segments_BS[:, :, None] == 0, jnp.nan, VALUES))  # what padding may hold


@functools.cache
def made(flavour="vaswani", **kw):
    decoder = Decoder(V, 16, jnp.float32, **{**TINY, **FLAVOURS[flavour], **kw})
    return decoder, jax.jit(lambda: decoder.init(jax.random.key(1), X[:, :2], memory=MEMORY))()


@functools.cache
def compiled(decoder):
    return jax.jit(lambda variables, x, kw: decoder.apply(variables, x, **kw))


def run(decoder, variables, x=X, **kw):
    return compiled(decoder)(variables, x, kw)


@each_flavour
def test_cached_equals_uncached_at_every_step(flavour):
    """KNOWN_BUGS 6: a prefill of 4, then single tokens past the window; the memory prepared once, against read by the layers."""
    decoder, variables = made(flavour)
    whole, _ = run(decoder, variables, memory=MEMORY)
    prepared = jax.jit(lambda v: decoder.apply(v, WILD, method="prepare"))(variables)
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(prepared))
    cache, parts = decoder.init_cache(B, T), []
    for start, end in ((0, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9)):
        logits, cache = run(decoder, variables, X[:, start:end], cache=cache, memory=prepared)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=5e-5)


@some_flavours
def test_padding_and_other_rows_change_nothing(flavour):
    """KNOWN_BUGS 5, 21: left-padded targets, wild ids and NaN in padding, against right padding, and against a row alone."""
    decoder, variables = made(flavour)
    pads = (0, 2, 4)
    segments = jnp.asarray([[0] * p + [1] * (T - p) for p in pads])
    left, _ = run(decoder, variables, jnp.where(segments == 0, 10**6, X), segments_BT=segments, memory=WILD)
    rolled = jnp.stack([jnp.roll(X[row], -pad) for row, pad in enumerate(pads)])
    values = jnp.where(MEMORY.segments_BS[:, :, None] == 0, 0.0, VALUES).at[1].set(jnp.roll(VALUES[1], -1, axis=0))
    moved = Memory(values, MEMORY.segments_BS.at[1].set(jnp.roll(MEMORY.segments_BS[1], -1)))
    right, _ = run(decoder, variables, rolled, segments_BT=segments[:, ::-1], memory=moved)
    for row, pad in enumerate(pads):
        np.testing.assert_allclose(left[row, pad:], right[row, : T - pad], atol=5e-5)
    alone, _ = run(decoder, variables, X[2:, 4:], memory=Memory(VALUES[2:, :2], jnp.ones((1, 2), jnp.int32)))
    np.testing.assert_allclose(left[2, 4:], alone[0], atol=5e-5)


@pytest.mark.parametrize("flavour", ["bart", "t5"])
def test_positions_follow_from_segments_also_in_a_cache(flavour):
    """KNOWN_BUGS 5: nobody gives positions; left padding in the first call, then single tokens."""
    decoder, variables = made(flavour)
    segments = jnp.asarray([[0] * p + [1] * (T - p) for p in (0, 2, 4)])
    whole, _ = run(decoder, variables, segments_BT=segments, memory=MEMORY)
    first, cache = run(decoder, variables, X[:, :6], segments_BT=segments[:, :6], memory=MEMORY, cache=decoder.init_cache(B, T))
    second, cache = run(decoder, variables, X[:, 6:7], memory=MEMORY, cache=cache)
    for row, pad in enumerate((0, 2, 4)):
        np.testing.assert_allclose(first[row, pad:], whole[row, pad:6], atol=5e-5)
        np.testing.assert_allclose(second[row, 0], whole[row, 6], atol=5e-5)


@some_flavours
def test_documents_in_one_row_equal_separate_ones(flavour):
    """KNOWN_BUGS 4: target document k reads memory document k, and nothing of the others."""
    decoder, variables = made(flavour)
    source, target = jnp.asarray([[1, 1, 2, 2, 2, 0]]), jnp.asarray([[1] * 4 + [2] * 3 + [0] * 2])
    packed, _ = run(decoder, variables, X[:1], segments_BT=target, memory=Memory(VALUES[:1], source))
    for (start, end), (first, last) in (((0, 4), (0, 2)), ((4, 7), (2, 5))):
        memory = Memory(VALUES[:1, first:last], jnp.ones((1, last - first), jnp.int32))
        alone, _ = run(decoder, variables, X[:1, start:end], memory=memory)
        np.testing.assert_allclose(packed[:, start:end], alone, atol=5e-5)


@functools.cache
def gradients_of(flavour):
    """Returns jitted (source_segments, segments) -> logits, gradients of some function of those at step 4: to params, tokens, memory."""
    decoder, variables = made(flavour)

    def value(variables, offsets, values, source_segments, segments):
        def add(next_fn, args, kwargs, context):
            out = next_fn(*args, **kwargs)
            return out + offsets if context.module.name == "token_embedding" and context.method_name == "__call__" else out

        with nn.intercept_methods(add):
            logits, _ = decoder.apply(variables, X, segments_BT=segments, memory=Memory(values, source_segments))
        return jnp.sum(logits[:, 4] * jnp.sin(jnp.arange(V, dtype=jnp.float32))[None]), logits

    gradients = jax.jit(jax.grad(value, (0, 1, 2), has_aux=True))
    return lambda *segments: gradients(variables, jnp.zeros((B, T, 8)), VALUES, *segments)


@each_flavour
def test_logits_depend_on_no_later_target_and_on_the_memory(flavour):
    """KNOWN_BUGS 12: by gradients, of the logits at step 4."""
    (_, on_tokens, on_memory), _ = gradients_of(flavour)(MEMORY.segments_BS, jnp.ones((B, T), jnp.int32))
    size = np.abs(np.asarray(on_tokens)).sum((0, 2))
    assert not size[5:].any() and (size[3:5] > 0).all()
    np.testing.assert_array_equal(np.abs(np.asarray(on_memory)).sum(-1) > 0, MEMORY.segments_BS != 0)


@each_flavour
def test_empty_sources_and_targets_are_finite_with_finite_gradients(flavour):
    """KNOWN_BUGS 7: a row without a source, and one of nothing but padding; the third does not notice."""
    ones = jnp.ones((B, T), jnp.int32)
    gradients, logits = gradients_of(flavour)(MEMORY.segments_BS.at[1].set(0), ones.at[2].set(0))
    assert np.isfinite(logits).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not gradients[2][1:].any() and gradients[2][0].any() and gradients[1][1].any()
    np.testing.assert_array_equal(logits[0], gradients_of(flavour)(MEMORY.segments_BS, ones)[1][0])


@pytest.mark.parametrize("flavour", ["vaswani", "llama"])
def test_a_prefix_is_read_in_both_directions_cached_and_uncached(flavour):
    decoder, variables = made(flavour)
    prefix = jnp.asarray([[1] * 4 + [0] * 5, [1] * 2 + [0] * 7, [0] * 9])
    whole, _ = run(decoder, variables, prefix_BT=prefix, memory=MEMORY)
    causal, _ = run(decoder, variables, memory=MEMORY)
    assert np.abs(whole[0, 0] - causal[0, 0]).max() > 1e-3  # the first token sees the fourth
    np.testing.assert_allclose(whole[2], causal[2], atol=1e-5)
    changed, _ = run(decoder, variables, X.at[:, 4:].add(1) % V, prefix_BT=prefix, memory=MEMORY)
    np.testing.assert_allclose(changed[:, :4], whole[:, :4], atol=1e-5)  # but nothing behind the prefix
    cache = decoder.init_cache(B, T)
    first, cache = run(decoder, variables, X[:, :5], prefix_BT=prefix[:, :5], memory=MEMORY, cache=cache)
    second, _ = run(decoder, variables, X[:, 5:], memory=MEMORY, cache=cache)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=5e-5)


def test_scanned_and_recomputed_layers_equal_unrolled_ones():
    unrolled, variables = made("scanned", scan_layers=False)
    scanned, stacked = made("scanned")
    block = stacked["params"]["decoder"]["layers"]["block"]
    for i in range(2):
        layer = variables["params"]["decoder"][f"layer_{i}"]
        assert "cross_attention" in layer
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), block, layer)

    def loss(decoder, variables, memory):
        return jnp.square(decoder.apply(variables, X, memory=memory)[0]).mean()

    def value_and_gradients(decoder, variables):
        return jax.jit(jax.value_and_grad(functools.partial(loss, decoder), (0, 1), allow_int=True))(variables, MEMORY)

    value, (of_params, of_memory) = value_and_gradients(unrolled, variables)
    for other, params in ((scanned.clone(remat="full"), stacked), (unrolled.clone(remat="dots"), variables)):
        again, (gradients, memory) = value_and_gradients(other, params)
        np.testing.assert_allclose(again, value, rtol=1e-5)
        np.testing.assert_allclose(memory.values_BSD, of_memory.values_BSD, atol=1e-5)
        of_table = [g["params"]["token_embedding"]["embedding"] for g in (gradients, of_params)]
        np.testing.assert_allclose(*of_table, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_attention_weights_on_demand(scan):
    decoder, variables = made("vaswani", scan_layers=scan)
    (logits, _), sown = jax.jit(lambda v: decoder.apply(v, X, memory=MEMORY, mutable=["attention"]))(variables)
    np.testing.assert_allclose(logits, run(decoder, variables, memory=MEMORY)[0], atol=1e-5)
    leaves = sown["attention"]["decoder"]
    layers = [jax.tree.map(lambda a, i=i: a[i], leaves["layers"]["block"]) if scan else leaves[f"layer_{i}"] for i in range(2)]
    for layer in layers:
        (cross,), (own,) = layer["cross_attention"]["weights"], layer["attention"]["weights"]
        assert cross.shape == (B, 2, T, S) and own.shape == (B, 2, T, T)
        np.testing.assert_allclose(cross.sum(-1), 1.0, rtol=1e-5)
        assert not np.triu(own[0, 0], 1).any() and not cross[1, :, :, 0].any()
    _, sown = jax.jit(lambda v, c: decoder.apply(v, X[:, :1], memory=MEMORY, cache=c, mutable=["attention"]))(
        variables, decoder.init_cache(B, T)
    )
    assert {leaf.shape[-2] for leaf in jax.tree.leaves(sown)} == {1}


def test_without_a_memory_there_are_no_parameters_for_it():
    decoder, variables = made()
    alone = jax.eval_shape(decoder.init, jax.random.key(0), X)["params"]
    count = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (variables["params"], alone)]
    assert count[0] - count[1] == 2 * (2 * (8 * 8 + 8) + 2 * (D * 8 + 8) + 16)  # query, out, key, value and a norm a layer
    without = jax.tree.map(lambda x: x, variables["params"])
    for layer in without["decoder"].values():
        layer.pop("cross_attention"), layer.pop("cross_attention_norm")
    assert run(decoder, {"params": without})[0].shape == (B, T, V)


def test_a_table_of_the_caller_serves_inputs_and_logits():
    class Parent(nn.Module):
        def setup(self):
            self.table = Embedding(V, 8, 0.4)
            self.inner = Decoder(V, 16, jnp.float32, **{**TINY, **FLAVOURS["vaswani"]})

        def __call__(self, x):
            return self.inner(x, memory=MEMORY, embedding=self.table)[0]

    decoder, variables = made()
    shared = jax.jit(Parent().init)(jax.random.key(0), X)["params"]
    assert "token_embedding" not in shared["inner"]
    own = {"params": {**shared["inner"], "token_embedding": shared["table"]}}
    np.testing.assert_allclose(jax.jit(Parent().apply)({"params": shared}, X), run(decoder, own, memory=MEMORY)[0], atol=1e-5)


def test_bfloat16_follows_float32():
    decoder, variables = made("t5")
    exact, _ = run(decoder, variables, memory=MEMORY)
    rough, _ = run(decoder.clone(dtype=jnp.bfloat16), variables, memory=Memory(VALUES.astype(jnp.bfloat16), MEMORY.segments_BS))
    assert rough.dtype == jnp.float32
    assert np.abs(rough - exact).mean() < 0.05 * np.asarray(exact).std()


def layer_by_hand(p, x, values):
    """A post-norm layer of Vaswani et al. 2017 in numpy: one row, no padding, H = 4."""

    def linear(q, y):
        return y @ q["kernel"] + q["bias"]

    def norm(q, y):
        y = y - y.mean(-1, keepdims=True)
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * q["scale"] + q["bias"]

    def attention(q, y, z, causal):
        heads = []
        for n in range(2):
            cut = slice(4 * n, 4 * n + 4)
            logits = linear(q["query"], y)[:, cut] @ linear(q["key"], z)[:, cut].T / 2.0
            if causal:
                logits[np.triu_indices(len(y), 1)] = -np.inf
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ linear(q["value"], z)[:, cut])
        return linear(q["out"], np.concatenate(heads, -1))

    x = norm(p["attention_norm"], x + attention(p["attention"], x, x, True))
    x = norm(p["cross_attention_norm"], x + attention(p["cross_attention"], x, values, False))
    return norm(p["mlp_norm"], x + linear(p["mlp"]["down"], np.maximum(linear(p["mlp"]["up"], x), 0)))


def test_a_layer_of_2017_equals_plain_numpy():
    decoder, variables = made("vaswani", position="none", num_layers=1)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    table = p["token_embedding"]["embedding"]
    x = layer_by_hand(p["decoder"]["layer_0"], table[X[0]] * np.sqrt(8), np.asarray(VALUES[0], np.float64))
    np.testing.assert_allclose(run(decoder, variables, memory=MEMORY)[0][0], x @ table.T, atol=1e-4)


def test_variants_and_problems():
    complete = {name: field.default for name, field in lookup.fields("decoder", "transformer").items()}
    assert set().union(*VARIANTS.values()) <= set(complete)
    assert [problems({**complete, **kw}) for kw in VARIANTS.values()] == [[]] * len(VARIANTS)
    assert "set cross_window" in problems({**complete, "cross_predict_centre": True})[0]
    found = problems({**complete, "score": "additive", "attention_scale": 1.0, "attention": "xla"})
    assert len(found) == 2 and all("scaled" in line for line in found)
