"""The recurrent decoder in the papers' forms: caches, padding, documents, causality, attention weights, scheduled sampling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.decoders.recurrent import Decoder
from decoder_lab.encoders.recurrent import Encoder
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.memory import Memory

pytestmark = pytest.mark.usefixtures("strict_numerics")
V, T, S, W, E = 11, 7, 6, 4, 3
FLAVOURS = {
    "sutskever": dict(attention="none", bridge="copy", output="hidden", num_layers=2),
    "cho": dict(cell="gru", attention="none", context_input=True, output="deep"),
    "bahdanau": dict(cell="gru", attention="additive", attention_dim=5, context_input=True, bridge="backward", output="maxout"),
    "luong": dict(attention="general", input_feeding=True, num_layers=2),
    "concat": dict(attention="concat", cell="gru", bridge="zero", attention_dim=6, attention_heads=2),
    "scaled": dict(
        attention="scaled_dot", context_input=True, input_feeding=True, readout_dim=6, window=2, predict_centre=True, attention_heads=2
    ),
    "dot": dict(attention="dot", bridge="copy", window=1, tie_embeddings=True),
}
ENCODERS = {
    "sutskever": dict(num_layers=2, reverse_source=True),
    "cho": dict(cell="gru"),
    "bahdanau": dict(cell="gru", bidirectional=True),
    "luong": dict(num_layers=2),
    "concat": dict(cell="gru"),
    "scaled": dict(bidirectional=True, num_layers=2),
    "dot": dict(),
}
each_flavour = pytest.mark.parametrize("flavour", sorted(FLAVOURS))
papers = pytest.mark.parametrize("flavour", ["bahdanau", "cho", "luong", "sutskever"])
SOURCE = jnp.asarray(np.random.default_rng(1).integers(1, V, (3, S)), jnp.int32)
TARGET = jnp.asarray(np.random.default_rng(2).integers(0, V, (3, T)), jnp.int32)
# padding left, right and inside; two documents a row
PADDED = (
    np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]),
    np.array([[1] * 7, [0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0]]),
)
PACKED = (
    np.array([[1, 1, 2, 2, 0, 0], [0, 1, 1, 0, 2, 2], [1, 1, 2, 2, 2, 2]]),
    np.array([[1, 1, 1, 2, 2, 2, 0], [1, 0, 1, 1, 2, 2, 2], [2, 2, 2, 0, 1, 1, 1]]),
)


@functools.cache
def made(flavour, dtype=jnp.float32, **kw):
    encoder = Encoder(V, S, dtype, **{"width": W, "embedding_dim": E, **ENCODERS[flavour]})
    decoder = Decoder(V, T, dtype, **{"width": W, "embedding_dim": E, "embedding_stddev": 1.0, **FLAVOURS[flavour], **kw})

    def init(key):
        encoder_params = encoder.init(key, SOURCE)["params"]
        memory = encoder.apply({"params": encoder_params}, SOURCE)
        return {"encoder": encoder_params, "decoder": decoder.init(jax.random.fold_in(key, 1), TARGET, memory=memory)["params"]}

    params = jax.tree.map(lambda p: 2 * p + 0.05, jax.jit(init)(jax.random.key(0)))  # louder, and biases that are not zero
    return encoder, decoder, params


@functools.cache
def compiled(flavour):
    """Returns jitted run(params, ...) -> logits, prepare(params, source, segments) -> memory, step(...) -> logits and cache."""
    encoder, decoder, _ = made(flavour)

    def run(params, source, target, source_segments=None, segments=None, positions=None):
        memory = encoder.apply({"params": params["encoder"]}, source, segments_BS=source_segments)
        return decoder.apply({"params": params["decoder"]}, target, memory=memory, segments_BT=segments, positions_BT=positions)[0]

    def prepare(params, source, segments):
        memory = encoder.apply({"params": params["encoder"]}, source, segments_BS=segments)
        return decoder.apply({"params": params["decoder"]}, memory, method="prepare")

    def step(params, target, segments, positions, memory, cache):
        where = dict(segments_BT=segments, positions_BT=positions)
        return decoder.apply({"params": params["decoder"]}, target, **where, memory=memory, cache=cache)

    return jax.jit(run), jax.jit(prepare), jax.jit(step)


def places(segments):
    """Returns int32 positions within each document."""
    found = np.zeros(segments.shape, np.int32)
    for row, document in np.ndindex(3, 3):
        at = segments[row] == document + 1
        found[row, at] = np.arange(at.sum())
    return jnp.asarray(found)


def alone(flavour, source_segments, segments):
    """Returns {(row, document): logits of that document in a row of its own}; padding stands behind it only."""
    run, (_, _, params) = compiled(flavour)[0], made(flavour)
    found = {}
    for document in sorted(set(segments.flat) - {0}):
        arrays = []
        for tokens, marks in ((SOURCE, source_segments), (TARGET, segments)):
            rows, real = np.zeros(tokens.shape, np.int32), np.zeros(tokens.shape, np.int32)
            for row in range(3):
                own = np.asarray(tokens[row])[marks[row] == document]
                rows[row, : len(own)], real[row, : len(own)] = own, 1
            arrays.append((jnp.asarray(rows), jnp.asarray(real)))
        (source, real_s), (target, real_t) = arrays
        logits = run(params, source, target, real_s, real_t, places(np.asarray(real_t)))
        found |= {(row, document): logits[row, : int(real_t[row].sum())] for row in range(3)}
    return found


@each_flavour
def test_without_segments_equals_segments_of_ones(flavour):
    run, (_, _, params) = compiled(flavour)[0], made(flavour)
    ones = jnp.ones((3, S), jnp.int32), jnp.ones((3, T), jnp.int32)
    plain = run(params, SOURCE, TARGET)
    assert plain.dtype == jnp.float32 and float(plain.std()) > 0.05
    np.testing.assert_allclose(run(params, SOURCE, TARGET, *ones, places(np.ones((3, T)))), plain, atol=1e-5)


@each_flavour
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_batch_equals_single_texts_cached_and_not(flavour, layout):
    """KNOWN_BUGS 4, 5, 6, 21: padding anywhere with wild ids in it; documents of one row (k of the target begins with the states
    of, and reads, k of the source only); all at once, and over a cache: a prefill, a token, a chunk."""
    _, decoder, params = made(flavour)
    run, prepare, step = compiled(flavour)
    source_segments, segments = PADDED if layout == "padded" else PACKED
    source, target = jnp.where(source_segments == 0, 10**6, SOURCE), jnp.where(segments == 0, -(10**6), TARGET)
    marks_s, marks_t, positions = jnp.asarray(source_segments), jnp.asarray(segments), places(segments)
    whole = run(params, source, target, marks_s, marks_t, positions)
    memory, cache, parts = prepare(params, source, marks_s), decoder.init_cache(3, T), []
    for cut in (slice(0, 3), slice(3, 4), slice(4, 7)):
        logits, cache = step(params, target[:, cut], marks_t[:, cut], positions[:, cut], memory, cache)
        parts.append(logits)
    assert jax.tree.map(jnp.shape, cache) == jax.tree.map(jnp.shape, decoder.init_cache(3, T))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache) if leaf.ndim} == {3}
    for (row, document), want in alone(flavour, source_segments, segments).items():
        for got in (whole, jnp.concatenate(parts, axis=1)):
            np.testing.assert_allclose(got[row, segments[row] == document], want, atol=1e-5)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_positions_follow_from_segments_cached_and_not(layout):
    """Nobody gives positions: those of a window count in every document, wherever padding stands, as in every other decoder."""
    _, decoder, params = made("dot")
    run, prepare, step = compiled("dot")
    source_segments, segments = (marks[:2] for marks in (PADDED if layout == "padded" else PACKED))  # documents in order
    source_segments, segments = (np.concatenate([marks, marks[:1]]) for marks in (source_segments, segments))
    want = run(params, SOURCE, TARGET, jnp.asarray(source_segments), jnp.asarray(segments), places(segments))
    whole = run(params, SOURCE, TARGET, jnp.asarray(source_segments), jnp.asarray(segments))
    memory, cache, parts = prepare(params, SOURCE, jnp.asarray(source_segments)), decoder.init_cache(3, T), []
    for cut in (slice(0, 3), slice(3, 4), slice(4, 7)):
        logits, cache = step(params, TARGET[:, cut], jnp.asarray(segments[:, cut]), None, memory, cache)
        parts.append(logits)
    for got in (whole, jnp.concatenate(parts, axis=1)):
        np.testing.assert_allclose(got[segments != 0], want[segments != 0], atol=1e-5)


@functools.cache
def gradients_of(flavour):
    """Returns jitted (params, source_segments, t) -> gradients of some function of the logits at step t: to params, to embedded tokens."""
    encoder, decoder, _ = made(flavour)

    def value(params, offsets, source_segments, t):
        def add(next_fn, args, kwargs, context):
            out = next_fn(*args, **kwargs)
            is_table = context.module.name == "token_embedding" and context.method_name == "__call__"
            return out + offsets if is_table else out

        memory = encoder.apply({"params": params["encoder"]}, SOURCE, segments_BS=source_segments)
        with nn.intercept_methods(add):
            logits = decoder.apply({"params": params["decoder"]}, TARGET, memory=memory)[0]
        return jnp.sum(logits[:, t] * jnp.sin(jnp.arange(V, dtype=jnp.float32))[None])

    return jax.jit(jax.grad(value, argnums=(0, 1)))


@each_flavour
def test_logits_depend_on_no_later_token_and_on_all_parameters(flavour):
    """KNOWN_BUGS 12: causality by gradients, of the logits at step t with respect to every embedded token."""
    _, _, params = made(flavour)
    for t in (0, 3, T - 1):
        of_params, of_tokens = gradients_of(flavour)(params, jnp.zeros((3, T, E)), jnp.ones((3, S), jnp.int32), t)
        size = np.abs(np.asarray(of_tokens)).sum((0, 2))
        assert not size[t + 1 :].any() and (size[: t + 1] > 0).all()
    leaves = jax.tree_util.tree_leaves_with_path(of_params)
    assert not [jax.tree_util.keystr(path) for path, gradient in leaves if not np.abs(np.asarray(gradient)).max() > 1e-7]


@each_flavour
def test_an_empty_source_row_is_finite_and_so_are_its_gradients(flavour):
    """KNOWN_BUGS 7; and the other rows do not notice."""
    _, _, params = made(flavour)
    segments, ones, positions = jnp.ones((3, S), jnp.int32).at[1].set(0), jnp.ones((3, T), jnp.int32), places(np.ones((3, T)))
    logits, others = (compiled(flavour)[0](params, SOURCE, TARGET, s, ones, positions) for s in (segments, jnp.ones_like(segments)))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[::2], others[::2], atol=1e-5)
    gradients = gradients_of(flavour)(params, jnp.zeros((3, T, E)), segments, T - 1)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("flavour", ["bahdanau", "concat"])
def test_attention_weights_on_demand(flavour):
    """The same from all at once and one token at a time: [B, N, T, S], sums of 1, nothing at padding."""
    _, decoder, params = made(flavour)
    memory = compiled(flavour)[1](params, SOURCE, jnp.asarray([[1] * S, [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]]))
    ask = jax.jit(lambda x, cache: decoder.apply({"params": params["decoder"]}, x, memory=memory, cache=cache, mutable=["attention"]))
    (_, cache), asked = ask(TARGET[:, :1], decoder.init_cache(3, T))
    parts = [asked["attention"]["recurrent"]["attention"]["weights"][0]]
    for t in range(1, T):
        (_, cache), asked = ask(TARGET[:, t : t + 1], cache)
        parts.append(asked["attention"]["recurrent"]["attention"]["weights"][0])
    (whole,) = ask(TARGET, None)[1]["attention"]["recurrent"]["attention"]["weights"]
    assert whole.shape == (3, decoder.attention_heads, T, S) and whole.dtype == jnp.float32
    np.testing.assert_allclose(jnp.concatenate(parts, axis=2), whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(-1), 1.0, rtol=1e-5)
    assert not np.asarray(whole)[1, :, :, 2:].any()


def test_bahdanau_equals_a_loop_in_numpy():
    """One row, one token after the other: the state before the token asks, context and token enter the cell, maxout over all three."""
    encoder, decoder, params = made("bahdanau")
    memory = encoder.apply({"params": params["encoder"]}, SOURCE[:1])
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["decoder"])
    r, h_s = p["recurrent"], np.asarray(memory.values_BSD[0], np.float64)
    h = np.tanh(np.asarray(memory.states[0], np.float64)[0, W:] @ r["start"]["maps_0_h"]["kernel"] + r["start"]["maps_0_h"]["bias"])
    logits, cell, a = [], r["layers_0"], r["attention"]
    for token in np.asarray(TARGET[0]):
        scores = np.tanh(h @ a["query"]["kernel"] + h_s @ a["key"]["kernel"] + a["key"]["bias"]) @ a["vector"]
        weights = np.exp(scores - scores.max())
        context = weights / weights.sum() @ h_s
        x = p["token_embedding"]["embedding"][token]
        inputs, products = np.concatenate([x, context]) @ cell["kernel"] + cell["bias"], h @ cell["recurrent_kernel"]
        reset, z = (1 / (1 + np.exp(-(inputs + products)[k * W : (k + 1) * W])) for k in range(2))
        n = np.tanh(inputs[2 * W :] + reset * (products[2 * W :] + cell["candidate_bias"]))
        h = (1 - z) * n + z * h
        pairs = np.concatenate([x, context, h]) @ p["maxout"]["kernel"] + p["maxout"]["bias"]
        logits.append(pairs.reshape(-1, 2).max(-1) @ p["unembedding"]["kernel"] + p["unembedding"]["bias"])
    np.testing.assert_allclose(compiled("bahdanau")[0](params, SOURCE, TARGET)[0], logits, atol=1e-5)


def test_any_encoder_without_states_starts_a_decoder():
    """A Transformer's memory, say: the mean of the values is the state to begin with; what stands at padding is not read, NaN included."""
    values = jax.random.normal(jax.random.key(3), (2, S, 5))
    segments = jnp.asarray([[1] * S, [0, 0, 1, 1, 2, 2]])
    targets, target_segments = TARGET[:2], jnp.asarray([[1] * T, [1, 1, 1, 2, 2, 2, 2]])
    for kw in (FLAVOURS["bahdanau"] | dict(bridge="linear"), FLAVOURS["cho"]):
        decoder = Decoder(V, T, jnp.float32, **{"width": W, "embedding_dim": E, **kw})
        params = jax.jit(decoder.init)(jax.random.key(0), targets, memory=Memory(values, segments))
        run = jax.jit(decoder.apply)
        wild = Memory(jnp.where(segments[:, :, None] == 0, jnp.nan, values), segments)
        logits, _ = run(params, targets, segments_BT=target_segments, memory=wild)
        own = Memory(jnp.roll(values, 2, axis=1), jnp.asarray([[1, 1, 0, 0, 0, 0]] * 2))
        alone, _ = run(params, jnp.roll(targets, 4, axis=1), segments_BT=jnp.asarray([[1, 1, 1, 1, 0, 0, 0]] * 2), memory=own)
        np.testing.assert_allclose(logits[1, 3:], alone[1, :4], atol=1e-5)


@papers
def test_all_targets_of_a_row_read_a_source_that_is_one_document(flavour):
    """As every other decoder does (`ops.masks.readable`): the second target begins and reads as if it stood alone."""
    run, (_, _, params) = compiled(flavour)[0], made(flavour)
    source_segments, segments = jnp.ones((3, S), jnp.int32), jnp.asarray([[1, 1, 1, 2, 2, 2, 2]] * 3)
    both = run(params, SOURCE, TARGET, source_segments, segments, places(np.asarray(segments)))
    own = jnp.asarray([[1, 1, 1, 1, 0, 0, 0]] * 3)
    second = run(params, SOURCE, jnp.roll(TARGET, 4, axis=1), source_segments, own, places(np.asarray(own)))
    np.testing.assert_allclose(both[:, 3:], second[:, :4], atol=1e-5)


def test_the_parents_embedding_is_used_for_tokens_and_tied_logits():
    _, decoder, _ = made("dot")
    table = Embedding(V, E).bind({"params": {"embedding": jax.random.normal(jax.random.key(0), (V, E))}})
    memory = Memory(jnp.ones((3, S, W)), jnp.ones((3, S), jnp.int32))
    params = decoder.init(jax.random.key(0), TARGET, memory=memory, embedding=table)
    assert set(params["params"]) == {"recurrent", "projection"}
    hidden, _ = decoder.apply(params, TARGET, memory=memory, embedding=table, return_hidden=True)
    logits, _ = decoder.apply(params, TARGET, memory=memory, embedding=table)
    np.testing.assert_array_equal(decoder.apply(params, hidden, table, method="unembed"), logits)
    np.testing.assert_allclose(logits, hidden @ table.embedding.T, atol=1e-5)


@pytest.mark.parametrize("flavour", ["bahdanau", "sutskever"])
def test_scheduled_sampling(flavour):
    """Bengio et al. 2015: rate 0 changes no bit, as a number or as an array (operation by operation, since another program may round
    otherwise); first tokens and padding stay; at rate 1 every other token is the model's own."""
    encoder, decoder, params = made(flavour)
    segments, key = jnp.asarray([[1] * T, [0, 1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0]]), jax.random.key(0)
    memory = compiled(flavour)[1](params, SOURCE, jnp.ones((3, S), jnp.int32))

    def run(rate, key, tokens):
        options = dict(segments_BT=segments, memory=memory, sampling_rate=rate, rngs={"sampling": key})
        return decoder.apply({"params": params["decoder"]}, tokens, **options)[0]

    plain = decoder.apply({"params": params["decoder"]}, TARGET, segments_BT=segments, memory=memory)[0]
    for zero in (0.0, jnp.float32(0.0)):
        np.testing.assert_array_equal(run(zero, key, TARGET), plain)
    sampled = jax.jit(run)
    everything = sampled(jnp.float32(1.0), key, TARGET)
    first = np.asarray([[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(everything, sampled(jnp.float32(1.0), key, jnp.where(first, TARGET, (TARGET + 3) % V)))
    assert np.abs(np.asarray(everything - sampled(jnp.float32(1.0), jax.random.key(1), TARGET)))[~first].max() > 1e-3
    gradient = jax.jit(jax.grad(lambda params: decoder.apply(
        {"params": params}, TARGET, segments_BT=segments, memory=memory, sampling_rate=0.5, rngs={"sampling": key}
    )[0].std()))(params["decoder"])  # fmt: skip
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_draws_follow_the_prediction():
    """With logits that leave one choice, the draw is that choice: the input of step t + 1 becomes the best guess of step t."""
    _, decoder, params = made("sutskever")
    memory = compiled("sutskever")[1](params, SOURCE, jnp.ones((3, S), jnp.int32))
    sharp = jax.tree.map(lambda p: p, params["decoder"])
    sharp["unembedding"] = jax.tree.map(lambda p: 1e4 * p, sharp["unembedding"])
    run = jax.jit(
        lambda x, rate: decoder.apply({"params": sharp}, x, memory=memory, sampling_rate=rate, rngs={"sampling": jax.random.key(0)})[0]
    )
    greedy = TARGET
    for t in range(1, T):
        greedy = greedy.at[:, t].set(run(greedy, jnp.float32(0.0))[:, t - 1].argmax(-1).astype(jnp.int32))
    np.testing.assert_array_equal(run(TARGET, jnp.float32(1.0)), run(greedy, jnp.float32(0.0)))


def test_half_the_tokens_are_drawn_at_rate_one_half():
    _, decoder, params = made("sutskever")
    memory = compiled("sutskever")[1](params, jnp.broadcast_to(SOURCE[:1], (500, S)), jnp.ones((500, S), jnp.int32))
    tokens = jnp.full((500, T), V - 1, jnp.int32)
    quiet = {
        **params["decoder"],
        "unembedding": {"kernel": jnp.zeros((W, V)), "bias": jnp.zeros(V).at[V - 1].set(-1e9)},
    }  # never draws V - 1

    def kept(quiet):
        def watch(next_fn, args, kwargs, context):
            if context.module.name == "token_embedding" and args and args[0].shape == (500, T):
                seen.append(args[0])
            return next_fn(*args, **kwargs)

        seen = []
        with nn.intercept_methods(watch):
            decoder.apply({"params": quiet}, tokens, memory=memory, sampling_rate=0.5, rngs={"sampling": jax.random.key(0)})
        return seen[-1] == V - 1

    kept_BT = np.asarray(jax.jit(kept)(quiet))
    assert kept_BT[:, 0].all() and kept_BT[:, 1:].mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("flavour", ["bahdanau", "luong"])
def test_dropout_is_drawn_for_every_step_and_layer(flavour):
    _, decoder, params = made(flavour, dropout=0.3)
    memory = compiled(flavour)[1](params, SOURCE, jnp.ones((3, S), jnp.int32))
    run = jax.jit(
        lambda key: decoder.apply({"params": params["decoder"]}, TARGET, memory=memory, deterministic=False, rngs={"dropout": key})[0]
    )
    one, again, other = (run(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(np.asarray(one - other)).max() > 1e-3


@pytest.mark.parametrize("flavour", ["bahdanau", "luong", "dot"])
def test_bfloat16_runs_and_stays_near(flavour):
    _, _, params = made(flavour)
    encoder, decoder, _ = made(flavour, jnp.bfloat16)

    def run(params):
        return decoder.apply({"params": params["decoder"]}, TARGET, memory=encoder.apply({"params": params["encoder"]}, SOURCE))[0]

    logits = jax.jit(run)(params)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, compiled(flavour)[0](params, SOURCE, TARGET), atol=0.15)


@pytest.mark.parametrize(
    ("kw", "states", "published", "second_biases"),
    [
        (dict(attention="none", bridge="copy", output="hidden", num_layers=2), ("lstm", 2, 512), 8_209_925, 2 * 4 * 512),
        (dict(cell="gru", attention="none", context_input=True, bridge="copy", output="deep"), ("gru", 1, 512), 11_026_693, 2 * 512),
        (dict(cell="gru", attention="additive", context_input=True, output="deep"), ("gru", 1, 1024), 16_142_597, 2 * 512),
    ],
)
def test_parameter_counts_of_the_tutorial_ladder(kw, states, published, second_biases):
    """bentrevett/pytorch-seq2seq 1 to 3 with 5,893 English words, less PyTorch's second biases: with their encoders 13,898,501, 14,219,781
    and 20,518,405 (the last one's bridge is counted here)."""
    cell, layers, width = states
    h = jax.ShapeDtypeStruct((1, width), "float32")
    memory = Memory(
        jax.ShapeDtypeStruct((1, 2, width), "float32"), jax.ShapeDtypeStruct((1, 2), "int32"), ((h, h) if cell == "lstm" else h,) * layers
    )
    decoder = Decoder(5893, 64, jnp.float32, **{"width": 512, "embedding_dim": 256, **kw})
    shapes = jax.eval_shape(lambda m: decoder.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32), memory=m), memory)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == published - second_biases


def test_states_that_do_not_fit_are_named():
    decoder = Decoder(V, T, jnp.float32, width=W, bridge="copy")
    with pytest.raises(ValueError, match='got 8 and 4.*bridge="linear"'):
        decoder.init(jax.random.key(0), TARGET, memory=Memory(jnp.ones((3, S, 8)), jnp.ones((3, S), jnp.int32)))


def test_problems_are_named():
    fields = {name: field.default for name, field in lookup.fields("decoder", "recurrent").items()}
    assert lookup.problems("decoder", "recurrent", fields) == []
    wrong = dict(attention="none", input_feeding=True, output="deep", predict_centre=True, width=0)
    assert len(lookup.problems("decoder", "recurrent", {**fields, **wrong})) == 4
    assert "there is none" in lookup.problems("decoder", "recurrent", {**fields, "attention": "none", "window": 3})[0]
    for kw in (
        dict(attention="none", attention_heads=2),
        dict(attention_heads=3),
        dict(attention="dot", attention_dim=3, attention_heads=2),
    ):
        assert "attention_heads" in lookup.problems("decoder", "recurrent", {**fields, **kw})[0]
