"""The convolutional decoder, with and without a memory: cached equals uncached, and what no logit may depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.decoders.convolutional import Decoder
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.memory import Memory
from decoder_lab.models.convolutional_lm import Model

pytestmark = pytest.mark.usefixtures("strict_numerics")

V, T, S = 11, 12, 5
FLAVOURS = {
    "alone": dict(),
    "memory": dict(),
    "wide": dict(kernel_size=4, num_layers=3, tie_embeddings=False),  # with a memory
    "narrow": dict(kernel_size=1),
    "no_positions": dict(position="none"),
}
each_flavour = pytest.mark.parametrize("flavour", sorted(FLAVOURS))


@functools.cache
def made(flavour, dtype=jnp.float32, **kw):
    fields = dict(embedding_dim=6, width=8, num_layers=2, embedding_stddev=0.5) | FLAVOURS[flavour] | kw
    model = Decoder(V, 16, dtype, **fields)
    given = dict(memory=source(1)) if flavour in ("memory", "wide") else {}
    return model, jax.jit(model.init)(jax.random.key(0), tokens(1), **given)["params"]


def source(batch=2, segments=None, seed=5):
    rng = np.random.default_rng(seed)
    values, embeddings = (rng.normal(size=(batch, S, d)).astype(np.float32) for d in (7, 4))
    segments = np.ones((batch, S), np.int32) if segments is None else np.asarray(segments, np.int32)
    return Memory(jnp.asarray(values), jnp.asarray(segments), embeddings_BSD=jnp.asarray(embeddings))


def memory_of(flavour, *args, **kw):
    return {"memory": source(*args, **kw)} if flavour in ("memory", "wide") else {}


def tokens(batch=2, length=T, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, length), dtype=np.int32)


@functools.cache
def compiled(model):
    return jax.jit(lambda p, x, kw: model.apply({"params": p}, x, **kw))


def run(model, params, x, **kw):
    return compiled(model)(params, x, kw)


@each_flavour
def test_cached_equals_uncached_at_every_step(flavour):
    """KNOWN_BUGS 6: prefill of 4, then one token at a time, then chunks; the memory prepared once."""
    model, params = made(flavour)
    x, given = tokens(), memory_of(flavour)
    whole, _ = run(model, params, x, **given)
    if given:
        given = dict(memory=model.apply({"params": params}, given["memory"], method="prepare"))
    cache, parts = model.init_cache(2, 16), []
    for start, end in ((0, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 12)):
        logits, cache = run(model, params, x[:, start:end], cache=cache, **given)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-5)


@each_flavour
def test_left_padded_prompts_equal_single_ones(flavour):
    """KNOWN_BUGS 5: pads of 0, 1 and 7 in one batch, in a cache and without; positions given or not; wild ids in the padding."""
    model, params = made(flavour)
    pads, x = np.array([0, 1, 7]), tokens(3)
    positions = (np.arange(T)[None] - pads[:, None]).astype(np.int32)
    segments = (positions >= 0).astype(np.int32)
    padded, given = np.where(segments == 0, 10**6, x), memory_of(flavour, 3)
    for extra in ({}, {"positions_BT": positions}):
        everything = dict(segments_BT=segments, **extra)
        logits, _ = run(model, params, padded, **everything, **given)
        first = {name: a[:, : T - 1] for name, a in everything.items()}
        cached, cache = run(model, params, padded[:, : T - 1], cache=model.init_cache(3, 16), **first, **given)
        last, _ = run(model, params, padded[:, T - 1 :], cache=cache, **{n: a[:, T - 1 :] for n, a in everything.items()}, **given)
        for row, pad in enumerate(pads):
            alone = {name: jax.tree.map(lambda a, row=row: a[row : row + 1], m) for name, m in given.items()}
            single, _ = run(model, params, x[row : row + 1, pad:], **alone)
            np.testing.assert_allclose(logits[row, pad:], single[0], atol=2e-5)
            np.testing.assert_allclose(np.concatenate([cached[row, pad:], last[row]]), single[0], atol=2e-5)


@each_flavour
def test_documents_in_a_row_equal_separate_ones(flavour):
    """KNOWN_BUGS 4: target document k reads memory document k only."""
    model, params = made(flavour)
    x = tokens(1)
    memory_segments = np.array([[1, 1, 2, 2, 0]])
    given = memory_of(flavour, 1, memory_segments)
    logits, _ = run(model, params, x, segments_BT=np.array([[1] * 5 + [2] * 4 + [0] * 3], np.int32), **given)
    for start, end, part in ((0, 5, slice(0, 2)), (5, 9, slice(2, 4))):
        alone = {}
        if given:
            m = given["memory"]
            alone = dict(memory=Memory(m.values_BSD[:, part], jnp.ones((1, 2), jnp.int32), embeddings_BSD=m.embeddings_BSD[:, part]))
        want, _ = run(model, params, x[:, start:end], **alone)
        np.testing.assert_allclose(logits[:, start:end], want, atol=2e-5)


@each_flavour
def test_logits_depend_on_no_later_target_and_reach_as_far_back_as_stated(flavour):
    """KNOWN_BUGS 12: by gradients of the logits at three steps with respect to the token embeddings of every step."""
    model, params = made(flavour)

    def logit(offsets_TE, t):
        class Table:
            def __call__(self, x):
                return jnp.asarray(params["token_embedding"]["embedding"])[x] + offsets_TE[None]

            def attend(self, hidden):
                return hidden @ jnp.asarray(params["token_embedding"]["embedding"]).T

        return model.apply({"params": params}, tokens(1), embedding=Table(), **memory_of(flavour, 1))[0][0, t].sum()

    at = (0, 5, T - 1)
    gradients = jax.jit(jax.jacrev(lambda offsets: jnp.stack([logit(offsets, t) for t in at])))(jnp.zeros((T, 6)))
    reach = model.num_layers * (model.kernel_size - 1)
    for row, t in zip(np.abs(np.asarray(gradients)).sum(-1), at, strict=True):
        assert not row[t + 1 :].any() and not row[: max(0, t - reach)].any()
        assert (row[max(0, t - reach) : t + 1] > 0).all()


@pytest.mark.parametrize("left, right", [(2, 0), (0, 3), (4, 4)])
def test_padding_of_the_memory_changes_nothing(left, right):
    """KNOWN_BUGS 21: whatever it holds, not even what is no number."""
    model, params = made("memory")
    m = source()
    want, _ = run(model, params, tokens(), memory=m)
    pad = ((0, 0), (left, right), (0, 0))
    values, embeddings = (jnp.pad(a, pad, constant_values=jnp.nan) for a in (m.values_BSD, m.embeddings_BSD))
    padded = Memory(values, jnp.pad(m.segments_BS, pad[:2]), embeddings_BSD=embeddings)
    np.testing.assert_allclose(run(model, params, tokens(), memory=padded)[0], want, atol=2e-5)

    def loss(params, memory):
        return jnp.square(model.apply({"params": params}, tokens(), memory=memory)[0]).sum()

    gradients = jax.jit(jax.grad(loss))(params, padded)
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(gradients))


def test_an_empty_source_gives_finite_logits_and_gradients():
    """KNOWN_BUGS 7."""
    model, params = made("memory")
    memory = source(2, [[1] * S, [0] * S])
    loss = jax.jit(jax.value_and_grad(lambda p: jnp.square(model.apply({"params": p}, tokens(), memory=memory)[0]).sum()))
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(loss(params)))


def test_a_memory_without_embeddings_serves_too():
    model, params = made("memory")
    bare = source().replace(embeddings_BSD=None)
    assert not np.allclose(run(model, params, tokens(), memory=bare)[0], run(model, params, tokens(), memory=source())[0])


def test_attention_equals_a_loop_and_is_handed_out():
    """Gehring et al. 2017, eq. 1 and 2, over one layer."""
    model, params = made("memory", num_layers=1)
    memory = source(2, [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
    want = dict(mutable=["attention"])
    _, kept = model.apply({"params": params}, tokens(), memory=memory, **want)
    (weights,) = kept["attention"]["layer_0"]["cross_attention"]["weights"]
    assert weights.shape == (2, 1, T, S) and weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not np.asarray(weights)[0, :, :, 3:].any() and not np.asarray(weights)[1, :, :, 0].any()
    cache, steps = model.init_cache(2, 16), []
    for t in range(4):
        (_, cache), kept = model.apply({"params": params}, tokens()[:, t : t + 1], memory=memory, cache=cache, **want)
        steps.append(kept["attention"]["layer_0"]["cross_attention"]["weights"][0])
    np.testing.assert_allclose(np.concatenate(steps, axis=2), weights[:, :, :4], atol=1e-5)
    assert "attention" not in model.init(jax.random.key(0), tokens(), memory=memory)


@each_flavour
def test_hidden_states_unembed_to_the_logits_and_caches_have_the_batch_first(flavour):
    model, params = made(flavour)
    given = memory_of(flavour)
    logits, _ = run(model, params, tokens(), **given)
    hidden, cache = jax.jit(lambda p, x, c: model.apply({"params": p}, x, cache=c, return_hidden=True, **given))(
        params, tokens(), model.init_cache(2, 16)
    )
    np.testing.assert_allclose(model.apply({"params": params}, hidden, method="unembed"), logits, atol=2e-5)
    assert logits.dtype == jnp.float32 and all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(cache) if leaf.ndim)
    order = np.array([1, 1])
    moved, moved_memory = jax.tree.map(lambda leaf: leaf[order], (cache, given))
    want, _ = run(model, params, tokens()[:, :1], cache=cache, **given)
    got, _ = run(model, params, tokens()[order, :1], cache=moved, **moved_memory)
    np.testing.assert_allclose(got, want[order], atol=1e-5)


def test_a_callers_table_gives_tied_logits_only():
    """With tie_embeddings=False the decoder's own unembedding was passed over without a word."""
    table = Embedding(V, 6).bind({"params": {"embedding": jax.random.normal(jax.random.key(3), (V, 6))}})
    for tied in (True, False):
        model, params = made("alone", tie_embeddings=tied)
        hidden = jax.random.normal(jax.random.key(4), (2, T, 6))
        logits = model.apply({"params": params}, hidden, table, method="unembed")
        kernel = table.embedding.T if tied else params["unembedding"]["kernel"]
        np.testing.assert_allclose(logits, hidden @ kernel, atol=2e-5)  # the bias begins as zeros


def test_a_context_is_as_long_as_the_positions():
    assert made("alone")[0].context_length == 16 and made("no_positions")[0].context_length is None
    assert made("no_positions")[0].init_cache(1, 100)


def test_dropout_and_bfloat16():
    """KNOWN_BUGS 28."""
    model, params = made("memory", dropout=0.5)
    np.testing.assert_array_equal(*(run(model, params, tokens(), memory=source())[0] for _ in range(2)))
    train = jax.jit(lambda k: model.apply({"params": params}, tokens(), deterministic=False, rngs={"dropout": k})[0])
    assert not np.array_equal(train(jax.random.key(0)), train(jax.random.key(1)))
    rough, _ = made("memory", jnp.bfloat16)
    exact, _ = made("memory")
    memory = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a, source())
    got, want = run(rough, params, tokens(), memory=memory)[0], run(exact, params, tokens(), memory=source())[0]
    assert got.dtype == jnp.float32 and np.abs(got - want).mean() < 0.05 * np.asarray(want).std()


def test_what_cannot_be_is_refused():
    model, params = made("alone")
    with pytest.raises(ValueError, match="17 tokens exceed the 16"):
        model.apply({"params": params}, tokens(1, 17))
    with pytest.raises(UserError, match="context of 17 tokens exceeds"):
        model.init_cache(1, 17)
    complete = {name: field.default for name, field in lookup.fields("decoder", "convolutional").items()}
    assert lookup.problems("decoder", "convolutional", complete) == []
    assert len(lookup.problems("decoder", "convolutional", complete | dict(width=0, dropout=1.0))) == 2


def test_the_language_model_is_the_decoder_with_its_fields():
    assert lookup.fields("model", "convolutional_lm") == lookup.fields("decoder", "convolutional")
    model = Model(V, 16, jnp.float32, embedding_dim=6, width=8, num_layers=2, embedding_stddev=0.5)
    _, params = made("alone")
    np.testing.assert_array_equal(run(model, params, tokens())[0], run(made("alone")[0], params, tokens())[0])
    assert "5 tokens of context" in model.describe("cpu", 16)
    assert model.flops_per_token(16) == 6 * (2 * 3 * 8 * 16 + 2 * 6 * 8 + V * 6)
