"""The decoder-only model: sizes, causality, packing, caches, scanning, dropout."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.models.decoder_only import VARIANTS, Model, problems

V, T = 11, 12
TINY = dict(num_layers=2, num_heads=4, num_kv_heads=2, width=16, init_stddev=0.3)
POSITIONS = ["learned", "sinusoidal", "rotary", "alibi", "t5", "none"]
FLAVOURS = {
    **{position: dict(position=position) for position in POSITIONS},
    "rms": dict(norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=False),
    "post": dict(norm_position="post"),
    "sandwich": dict(norm_position="sandwich", norm="rms"),
    "parallel": dict(parallel_residual=True, position="rotary"),
    "window": dict(window=3, position="rotary"),
    "capped": dict(attention_softcap=5.0, logits_softcap=3.0, qk_norm=True),
    "scanned": dict(scan_layers=True, position="t5"),
    "experts": dict(num_experts=3, mlp="swiglu", expert_capacity=0.5, scan_layers=True),
}
each_flavour = pytest.mark.parametrize("flavour", sorted(FLAVOURS))


@functools.cache
def made(flavour="learned", dtype=jnp.float32, **kw):
    model = Model(V, 16, dtype, **{**TINY, **FLAVOURS[flavour], **kw})
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return model, params


def tokens(batch=3, length=T, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (batch, length)), jnp.int32)


@functools.cache
def compiled(model):
    return jax.jit(lambda params, x, kw: model.apply({"params": params}, x, **kw))


def run(model, params, x, **kw):
    return compiled(model)(params, x, kw)


@pytest.mark.parametrize(
    ("variant", "vocab_size", "max_length", "count"),
    [
        ("gpt2", 50257, 1024, 124_439_808),
        ("gpt2-medium", 50257, 1024, 354_823_168),
        ("gpt2-large", 50257, 1024, 774_030_080),
        ("gpt2-xl", 50257, 1024, 1_557_611_200),
        ("nanogpt_char", 65, 256, 10_745_088),
        ("nanogpt_cpu", 65, 64, 804_096),
        ("llama-160m", 32000, 2048, 162_417_408),
        ("llama-1b", 128256, 8192, 1_235_814_400),
        ("llama-7b", 32000, 4096, 6_738_415_616),
        ("llama-8b", 128256, 8192, 8_030_261_248),
        ("mixtral-8x7b", 32000, 4096, 46_702_792_704),
    ],
)
def test_parameter_counts_of_the_published_sizes(variant, vocab_size, max_length, count):
    # scanned, because tracing one layer is all it takes
    model = Model(vocab_size, max_length, jnp.bfloat16, **{**VARIANTS[variant], "scan_layers": True})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


def test_initial_values_follow_gpt2():
    model = Model(65, 64, jnp.float32, **VARIANTS["nanogpt_cpu"])
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    layer = params["decoder"]["layer_2"]
    for kernel in (layer["attention"]["query"]["kernel"], layer["mlp"]["up"]["kernel"], params["token_embedding"]["embedding"]):
        assert float(kernel.std()) == pytest.approx(0.02, rel=0.05)
    for kernel in (layer["attention"]["out"]["kernel"], layer["mlp"]["down"]["kernel"]):
        assert float(kernel.std()) == pytest.approx(0.02 / 8**0.5, rel=0.05)
    logits, _ = run(model, params, tokens(4, 32))
    assert abs(float(jax.nn.logsumexp(logits, axis=-1).mean()) - np.log(65)) < 0.1


@pytest.mark.parametrize("flavour", sorted(FLAVOURS.keys() - {"experts"}))  # whose products know no vmap; see the next test
def test_logits_depend_on_no_later_token(flavour):
    """Causality by gradients: of the logits at step t with respect to every embedded token."""
    model, params = made(flavour)
    x = tokens(1)

    def logit(offsets, t):
        def add(next_fn, args, kwargs, context):
            out = next_fn(*args, **kwargs)
            return out + offsets if context.module.name == "token_embedding" and context.method_name == "__call__" else out

        with nn.intercept_methods(add):
            return model.apply({"params": params}, x)[0][0, t].sum()

    gradients = jax.jit(jax.jacrev(lambda offsets: jnp.stack([logit(offsets, t) for t in (0, 5, T - 1)])))(jnp.zeros((1, T, 16)))
    size = np.abs(np.asarray(gradients)[:, 0]).sum(-1)
    for row, t in zip(size, (0, 5, T - 1), strict=True):
        assert not row[t + 1 :].any() and row[t] > 0
        reach = 0 if flavour != "window" else max(0, t - 4)  # 2 layers of a window of 3 reach 4 back
        assert (row[reach : t + 1] > 0).all() and not row[:reach].any()


@each_flavour
def test_cached_equals_uncached_at_every_step(flavour):
    """KNOWN_BUGS 6: prefill of 4, then one token at a time, then a chunk, against the whole at once."""
    model, params = made(flavour)
    x = tokens()
    whole, _ = run(model, params, x)
    cache, parts = model.init_cache(3, 16), []
    for start, end in ((0, 4), (4, 5), (5, 6), (6, 7), (7, 11), (11, 12)):
        logits, cache = run(model, params, x[:, start:end], cache=cache)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=2e-5, rtol=1e-5)


@each_flavour
def test_left_padded_prompts_equal_single_ones(flavour):
    """KNOWN_BUGS 5: pads of 0, 1 and 7 in one batch, in a cache and without; whatever the padding holds, wild indices included."""
    model, params = made(flavour)
    pads = np.array([0, 1, 7])
    x = np.asarray(tokens(3))
    positions = np.arange(T)[None] - pads[:, None]
    segments = (positions >= 0).astype(np.int32)
    x = np.where(segments == 0, 10**6, x)
    given = dict(positions_BT=jnp.asarray(positions), segments_BT=jnp.asarray(segments))
    logits, _ = run(model, params, jnp.asarray(x), **given)
    cache = model.init_cache(3, 16)
    prefill = {name: array[:, : T - 1] for name, array in given.items()}
    cached, cache = run(model, params, jnp.asarray(x[:, : T - 1]), cache=cache, **prefill)
    last, _ = run(model, params, jnp.asarray(x[:, T - 1 :]), cache=cache, **{name: array[:, T - 1 :] for name, array in given.items()})
    # the same rows without padding: what follows at their end cannot be seen by what is compared
    single, _ = run(model, params, jnp.asarray(np.stack([np.roll(row, -pad) for row, pad in zip(x, pads, strict=True)]) % V))
    for row, pad in enumerate(pads):
        np.testing.assert_allclose(logits[row, pad:], single[row, : T - pad], atol=2e-5, rtol=1e-5)
        np.testing.assert_allclose(cached[row, pad:], single[row, : T - 1 - pad], atol=2e-5, rtol=1e-5)
        np.testing.assert_allclose(last[row, 0], single[row, T - 1 - pad], atol=2e-5, rtol=1e-5)


PACKED = dict(positions_BT=jnp.asarray([[*range(5), *range(5), 0, 0]]), segments_BT=jnp.asarray([[1] * 5 + [2] * 5 + [0] * 2]))


@each_flavour
def test_packed_documents_equal_separate_ones(flavour):
    """KNOWN_BUGS 4: two documents and padding in one row."""
    model, params = made(flavour)
    x = tokens(1)
    logits, _ = run(model, params, x, **PACKED)
    for start, end in ((0, 5), (5, 10)):
        alone, _ = run(model, params, x[:, start:end])
        np.testing.assert_allclose(logits[:, start:end], alone, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("flavour", ["rotary", "t5", "learned"])
def test_another_second_document_changes_nothing_bit_for_bit(flavour):
    """KNOWN_BUGS 4: the first document's logits and gradients stay exactly the same."""
    model, params = made(flavour)

    @jax.jit
    def first_document(params, x):
        def loss(params):
            logits, _ = model.apply({"params": params}, x, **PACKED)
            return jnp.sum(jnp.square(logits[:, :5])), logits[:, :5]

        return jax.grad(loss, has_aux=True)(params)

    x = tokens(1)
    jax.tree.map(np.testing.assert_array_equal, first_document(params, x), first_document(params, x.at[:, 5:].add(3) % V))


def test_bfloat16_with_rotary_positions_far_out_follows_float32():
    """KNOWN_BUGS 14: at position 4096 a bfloat16 model must still tell neighbours apart."""
    x, positions = tokens(), 4096 + jnp.arange(T)[None]
    exact_model, params = made("rotary", attention="reference")
    rough_model, _ = made("rotary", dtype=jnp.bfloat16)
    near, _ = run(exact_model, params, x)
    far, _ = run(exact_model, params, x, positions_BT=positions)
    rough, _ = run(rough_model, params, x, positions_BT=positions)
    np.testing.assert_allclose(far, near, atol=1e-2)  # relative-shift invariance
    assert rough.dtype == jnp.float32
    error, spread = np.abs(np.asarray(rough - far)).mean(), np.asarray(far).std()
    assert error < 0.03 * spread


def test_scanned_layers_equal_unrolled_ones_from_the_first_value_on():
    scanned, stacked = made("scanned")
    unrolled, params = made("t5")
    layers = stacked["decoder"]["layers"]["block"]
    for i in range(2):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), layers, params["decoder"][f"layer_{i}"])
    assert not np.array_equal(*layers["mlp"]["up"]["kernel"])  # each layer has its own initial values
    np.testing.assert_allclose(run(scanned, stacked, tokens())[0], run(unrolled, params, tokens())[0], atol=2e-5)


def test_scanned_layers_with_and_without_a_window_equal_unrolled_ones():
    """As in Gemma 2 and 3: outputs, gradients, recomputed too, and the weights of attention, which show where each layer looked."""
    kw = dict(num_layers=3, position="rotary", window=3, global_layers=(1,), local_rope_theta=50.0)
    (unrolled, params), (scanned, stacked) = made(**kw), made(**kw, scan_layers=True, remat="full")

    def loss(params, model):
        (logits, _), sown = model.apply({"params": params}, tokens(), mutable=["attention"])
        return jnp.sum(jnp.sin(logits)), (logits, sown)

    both = jax.jit(lambda *params: [jax.grad(loss, has_aux=True)(p, m) for p, m in zip(params, (unrolled, scanned), strict=True)])
    (grads, (logits, sown)), (scanned_grads, (scanned_logits, scanned_sown)) = both(params, stacked)
    np.testing.assert_allclose(scanned_logits, logits, atol=2e-5)
    together = jax.tree.map(lambda *layers: jnp.stack(layers), *(grads["decoder"][f"layer_{i}"] for i in range(3)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), scanned_grads["decoder"]["layers"]["block"], together)
    weights = [sown["attention"]["decoder"][f"layer_{i}"]["attention"]["weights"][0] for i in range(3)]
    [scanned_weights] = jax.tree.leaves(scanned_sown)
    np.testing.assert_allclose(scanned_weights, np.stack(weights), atol=1e-5)
    far = np.tril(np.ones((T, T), bool), -3)
    assert [bool((layer[..., far] > 0).any()) for layer in scanned_weights] == [False, True, False]


@functools.cache
def gradients_under_dropout(scan, remat):
    model, params = made(scan_layers=scan, dropout=0.3, attention_dropout=0.3)
    model = model.clone(remat=remat)

    def loss(params):
        return model.apply({"params": params}, tokens(), deterministic=False, rngs={"dropout": jax.random.key(3)})[0].var()

    return jax.jit(jax.grad(loss))(params)


@pytest.mark.parametrize(("remat", "scan"), [("full", False), ("full", True), ("dots_no_batch", True)])
def test_remat_changes_no_gradient_also_with_dropout(remat, scan):
    plain, recomputed = gradients_under_dropout(scan, "none"), gradients_under_dropout(scan, remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), recomputed, plain)


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_differs_by_step_and_layer_and_is_off_by_default(scan):
    """KNOWN_BUGS 28 and reused keys: evaluation is deterministic; masks repeat neither over steps nor over layers."""
    model, params = made(dropout=0.5, scan_layers=scan)
    train = jax.jit(lambda key: model.apply({"params": params}, tokens(), deterministic=False, rngs={"dropout": key})[0])
    assert not np.array_equal(train(jax.random.key(0)), train(jax.random.key(1)))
    np.testing.assert_array_equal(train(jax.random.key(0)), train(jax.random.key(0)))
    np.testing.assert_array_equal(run(model, params, tokens())[0], run(model, params, tokens())[0])

    # each block adds 1 to everything that its dropout keeps, then the sum tells whether two layers kept the same
    ones = jax.tree_util.tree_map_with_path(lambda path, a: jnp.full_like(a, "down" in str(path) and "bias" in str(path)), params)

    @jax.jit
    def residual(params):
        kept = dict(capture_intermediates=lambda module, _: module.name == "decoder", mutable=["intermediates"])
        return model.apply({"params": params}, tokens(1), deterministic=False, rngs={"dropout": jax.random.key(0)}, **kept)[1]

    total = np.asarray(jax.tree.leaves(residual(ones))[0])
    assert set(np.unique(total)) == {0.0, 2.0, 4.0}


@pytest.mark.parametrize("flavour", ["learned", "rms", "capped"])
def test_hidden_states_unembed_to_the_logits(flavour):
    model, params = made(flavour)
    hidden, _ = run(model, params, tokens())
    states, _ = jax.jit(lambda p, x: model.apply({"params": p}, x, return_hidden=True))(params, tokens())
    logits = model.apply({"params": params}, states, method="unembed")
    np.testing.assert_allclose(logits, hidden, atol=1e-5)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("scan", [False, True])
def test_cache_leaves_have_the_batch_first_and_can_be_reordered(scan):
    """KNOWN_BUGS 6: beam search gathers every leaf of rank >= 1 along axis 0."""
    model, params = made(scan_layers=scan, dtype=jnp.bfloat16)
    cache = jax.tree.map(np.asarray, model.init_cache(3, 16))
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(cache) if leaf.ndim)
    assert cache["layers"]["key"].shape == (3, 2, 2, 16, 4) if scan else cache["layers"][0]["key"].shape == (3, 2, 16, 4)
    x = tokens(3)
    _, cache = run(model, params, x[:, :6], cache=model.init_cache(3, 16))
    order = jnp.asarray([2, 0, 0])
    moved = jax.tree.map(lambda leaf: leaf[order] if leaf.ndim else leaf, cache)
    got, after = run(model, params, x[order, 6:7], cache=moved)
    want, _ = run(model, params, x[:, 6:7], cache=cache)
    np.testing.assert_allclose(got, want[order], atol=1e-5)
    assert int(after["index"]) == 7


def complete(**kw):
    return {name: field.default for name, field in lookup.fields("model", "decoder_only").items()} | kw


def test_problems_are_found_together_and_read_without_the_module():
    check = functools.partial(lookup.problems, "model", "decoder_only")
    assert check(complete()) == []
    found = check(complete(width=130, num_heads=4, num_kv_heads=3, dropout=1.0, rope_scaling={"type": "linear", "factor": 2.0}))
    for part in ("width 130 is not divisible by num_heads 4", "num_kv_heads 3", "dropout must be", 'needs position="rotary"'):
        assert any(part in line for line in found), part
    assert "even head_dim" in check(complete(position="rotary", head_dim=5))[0]
    assert "at least 1" in check(complete(num_heads=0))[0]
    assert "also needs original_max_length" in check(complete(position="rotary", rope_scaling={"type": "yarn", "factor": 2.0}))[0]
    assert "soft cap" in check(complete(attention="cudnn", attention_softcap=5.0))[0]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_variants_are_sound_and_name_existing_fields(variant):
    fields = lookup.fields("model", "decoder_only")
    assert set(VARIANTS[variant]) <= set(fields)
    assert problems(complete(**VARIANTS[variant])) == []


def test_what_cannot_be_is_refused():
    model, params = made()
    with pytest.raises(ValueError, match="17 tokens exceed the 16 learned positions"):
        model.apply({"params": params}, tokens(1, 17))
    with pytest.raises(UserError, match="context of 17 tokens exceeds"):
        model.init_cache(1, 17)
    with pytest.raises(ValueError, match="no cross-attention"):
        model.apply({"params": params}, tokens(), memory=jnp.zeros(()))
    with pytest.raises(UserError, match="cross_window limits"):
        model.clone(cross_window=2).apply({"params": params}, tokens())
    for name, asked in (("cross_window", 2), ("cross_predict_centre", True)):  # before anything is built; neither is told to set the other
        assert [line.split(" is ")[0] for line in problems(complete(**{name: asked}))] == [name]
