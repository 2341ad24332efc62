"""Attention: every implementation equals a loop in numpy, and none leaks, nor gives a NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import backend
from decoder_lab.core.errors import UserError
from decoder_lab.ops import alignment, attention_kernels, position_bias
from decoder_lab.ops import attention as ops

pytestmark = pytest.mark.usefixtures("strict_numerics")
NAMES = ("reference", "blocked", "xla")
B, T, N, K, H = 2, 150, 4, 2, 8  # 150: three blocks, the last one short
SEGMENTS = np.repeat([[1, 2, 0], [0, 1, 3]], [70, 60, 20], axis=1)


def inputs(num_kv_heads=K, dtype=jnp.float32, length=T):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(B, length, N, H), (B, length, num_kv_heads, H), (B, length, num_kv_heads, H), (B, length, N, H)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def oracle(q, k, v, *, window=None, segments=None, slopes=None, softcap=None):
    """Query by query in float64, with nothing shared with the code under test."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(*q.shape[:3]):
        seen = [s for s in range(t + 1) if window is None or t - s < window]
        if segments is not None:
            seen = [s for s in seen if segments[b, s] == segments[b, t] != 0]
        if not seen:
            continue
        head = n // (q.shape[2] // k.shape[2])
        logits = k[b, seen, head] @ q[b, t, n] / np.sqrt(q.shape[3])
        logits = logits if softcap is None else softcap * np.tanh(logits / softcap)
        logits = logits if slopes is None else logits - slopes[n] * (t - np.asarray(seen))
        weights = np.exp(logits - logits.max())
        out[b, t, n] = weights / weights.sum() @ v[b, seen, head]
    return out


def settings(case: str):
    """Returns (arguments of the oracle, arguments of attention)."""
    slopes = position_bias.alibi_slopes(N)
    segments = {"q_segments_BT": jnp.asarray(SEGMENTS), "k_segments_BS": jnp.asarray(SEGMENTS)}
    return {
        "plain": ({}, {}),
        "window": ({"window": 33}, {"window": 33}),
        "segments": ({"segments": SEGMENTS}, segments),
        "segments+window": ({"segments": SEGMENTS, "window": 5}, {**segments, "window": 5}),
        "alibi": ({"slopes": slopes}, {"bias_fn": functools.partial(position_bias.alibi, jnp.asarray(slopes))}),
        "softcap": ({"softcap": 2.0}, {"softcap": 2.0}),
    }[case]


@pytest.mark.parametrize("case", ["plain", "window", "segments", "segments+window", "alibi", "softcap"])
def test_every_implementation_equals_the_oracle(case):
    q, k, v, _ = inputs()
    of_oracle, of_attention = settings(case)
    expected = oracle(q, k, v, **of_oracle)
    for name in NAMES:
        if name == "xla" and case == "softcap":
            continue
        out = jax.jit(functools.partial(ops.attention, implementation=name, **of_attention))(q, k, v)
        np.testing.assert_allclose(out, expected, atol=2e-6, err_msg=name)


def test_what_stands_in_for_a_fused_kernel_computes_it_in_little_memory():
    """In plans for GPUs that are not there: forwards and backwards no array of all queries and all keys."""
    q, k, v, g = inputs(dtype=jnp.bfloat16, length=144)
    segments = jnp.asarray(SEGMENTS[:, :144])
    kw = dict(q_segments_BT=segments, k_segments_BS=segments, window=33)

    def both(implementation):
        out, pull = jax.vjp(functools.partial(ops.attention, implementation=implementation, **kw), q, k, v)
        return out, pull(g)

    with backend.compiling_for("gpu"):
        compiled = jax.jit(lambda: both("cudnn")).lower().compile()
    assert "144,144]" not in compiled.as_text()
    expected = oracle(q, k, v, window=33, segments=SEGMENTS[:, :144])
    got, wanted = compiled(), jax.jit(lambda: both("reference"))()
    np.testing.assert_allclose(np.asarray(got[0], np.float64), expected, atol=0.03)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.float64(a), np.float64(b), atol=0.05), got[1], wanted[1])


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("case", ["plain", "segments+window", "alibi"])
def test_gradients_of_all_implementations_agree(case, num_kv_heads):
    q, k, v, g = inputs(num_kv_heads)
    _, of_attention = settings(case)

    def gradients(name):
        def loss(*qkv):
            return jnp.sum(ops.attention(*qkv, implementation=name, **of_attention) * g)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    expected = gradients("reference")
    for name in NAMES[1:]:
        for got, want in zip(gradients(name), expected, strict=True):
            np.testing.assert_allclose(got, want, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("num_keys", [40, 100, 200])
def test_gradients_agree_where_keys_are_fewer_or_more_than_queries(num_keys):
    """Cross-attention over several blocks of queries: the last keys lie inside a block, or behind the last one."""
    q, _, _, g = inputs()
    _, k, v, _ = inputs(length=num_keys)
    segments = {"q_segments_BT": jnp.asarray(SEGMENTS), "k_segments_BS": jnp.ones((B, num_keys), jnp.int32).at[1, 30:].set(0)}

    def gradients(name):
        def loss(*qkv):
            return jnp.sum(ops.attention(*qkv, causal=None, implementation=name, **segments) * g)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    for got, want in zip(gradients("blocked"), gradients("reference"), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_blocks_that_recompute_their_weights_give_the_same_gradients(monkeypatch):
    q, k, v, g = inputs()

    def gradients():
        return jax.jit(jax.grad(lambda *qkv: jnp.sum(ops.attention(*qkv, implementation="blocked") * g), argnums=(0, 1, 2)))(q, k, v)

    kept = gradients()
    monkeypatch.setattr(ops, "RECOMPUTE_FROM", 1)
    for got, want in zip(gradients(), kept, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_padding_gives_zeros_and_finite_gradients_in_16_bits(name):
    """KNOWN_BUGS 7: fully masked rows must not give NaN, forward or backward."""
    q, k, v, _ = inputs(dtype=jnp.bfloat16)
    segments = jnp.zeros((B, T), jnp.int32).at[0, 3:9].set(1)

    def attend(*qkv):
        return ops.attention(*qkv, q_segments_BT=segments, k_segments_BS=segments, implementation=name)

    with jax.numpy_dtype_promotion("standard"):  # JAX's own function mixes dtypes
        out, pull_back = jax.vjp(jax.jit(attend), q, k, v)
        gradients = pull_back(jnp.ones_like(out))
    assert not np.any(np.asarray(out, np.float32)[1]) and np.any(np.asarray(out, np.float32)[0, 3:9])
    for gradient in gradients:
        gradient = np.asarray(gradient, np.float32)
        assert np.isfinite(gradient).all() and not gradient[1].any()


def with_blind_queries(case):
    """Returns (arguments of attention, (B, T) bool of the queries that see nothing, number of keys, implementations that know it)."""
    segments, t = np.zeros((B, T), np.int32), np.arange(T)
    segments[0, 3:9], segments[0, 60:80] = 1, 2
    marked = {"q_segments_BT": jnp.asarray(segments), "k_segments_BS": jnp.asarray(segments)}
    blind, rng = segments == 0, np.random.default_rng(0)
    v, kernels = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((N, H), (N, 2 * H, H)))
    scores = {
        "dot": alignment.dot,
        "general": functools.partial(alignment.general, kernel=kernels[:, :H]),
        "additive": functools.partial(alignment.additive, v=v),
        "concat": functools.partial(alignment.concat, kernel=kernels, v=v),
    }
    if case in scores:
        return {**marked, "score_fn": scores[case]}, blind, T, ("reference", "blocked")
    if case == "prefix":
        return {**marked, "prefix_BT": jnp.asarray((t < 40)[None].repeat(B, 0).astype(np.int32))}, blind, T, NAMES
    if case == "positions":  # of a cache: the first query is before all keys
        where = {"q_positions_BT": jnp.arange(T)[None], "k_positions_BS": 1 + jnp.arange(40)[None]}
        return {"causal": "positions", **where}, np.broadcast_to(t < 1, (B, T)), 40, NAMES
    if case == "window, fewer keys":
        return {"causal": None, "window": 3}, np.broadcast_to(t >= 40 + 2, (B, T)), 40, NAMES
    if case == "memory, positions":
        where = {"q_positions_BT": jnp.arange(T)[None], "k_positions_BS": jnp.arange(30)[None], "causal": None, "window": 9}
        seen = (segments == 1) & (t < 30 + 8)[None]
        return {**marked, **where, "k_segments_BS": jnp.ones((B, 30), jnp.int32)}, ~seen, 30, NAMES
    return {**settings(case)[1], **marked}, blind, T, NAMES[:2] if case == "softcap" else NAMES


@pytest.mark.parametrize(
    "case",
    ["plain", "window", "alibi", "softcap", "dot", "general", "additive", "concat", "prefix", "positions", "window, fewer keys"]
    + ["memory, positions"],
)
def test_a_query_that_sees_nothing_gets_zeros_from_every_function(case):
    """KNOWN_BUGS 7, for every score, bias and rule, and for what is handed out: zeros, finite gradients; elsewhere weights of sum 1."""
    arguments, blind, num_keys, names = with_blind_queries(case)
    q, k, v, g = inputs()
    learned = jax.random.normal(jax.random.key(9), (2, 3, K, H))

    def everything(q, k, v, learned):
        found = {name: ops.attention(q, k, v, implementation=name, **arguments) for name in names}
        return {**found, "prefixed": ops.prefixed(q, k, v, *learned, **arguments)}

    @jax.jit
    def both(*of):
        out, pull_back = jax.vjp(everything, *of)
        return out, pull_back({name: g for name in out}), ops.weights(*of[:2], **arguments)

    out, gradients, weights = both(q, k[:, :num_keys], v[:, :num_keys], learned)
    np.testing.assert_allclose(weights.sum(-1), np.where(blind, 0, 1)[:, None].repeat(N, 1), atol=1e-5)
    mixed = np.einsum("BNTS,BSNH->BTNH", weights, np.repeat(v[:, :num_keys], N // K, axis=2))
    for name, found in out.items():
        assert blind.any() and not np.asarray(found)[blind].any() and np.asarray(found)[~blind].any(-1).all(), name
        if name != "prefixed":
            np.testing.assert_allclose(found, mixed, atol=5e-6, err_msg=name)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not np.asarray(gradients[0])[blind].any()


@pytest.mark.parametrize("name", NAMES)
def test_another_document_changes_nothing_bit_for_bit(name):
    """KNOWN_BUGS 4: replacing document 2 of a row leaves document 1's outputs and gradients exactly unchanged."""
    q, k, v, g = inputs()
    segments = jnp.asarray(np.repeat([[1, 2]], [70, 80], axis=1).repeat(B, axis=0))
    of_first = (segments == 1)[:, :, None, None]

    @jax.jit
    def first_document(q, k, v):
        def loss(*qkv):
            out = ops.attention(*qkv, q_segments_BT=segments, k_segments_BS=segments, implementation=name)
            return jnp.sum(jnp.where(of_first, out * g, 0.0)), jnp.where(of_first, out, 0.0)

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    before = first_document(q, k, v)
    after = first_document(*(jnp.where(of_first, x, 100 * x + 1) for x in (q, k, v)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert not any(np.asarray(gradient)[:, 70:].any() for gradient in before[0])


def test_by_positions_equals_by_rows_of_the_same_order():
    q, k, v, _ = inputs()
    rows = jax.jit(functools.partial(ops.attention, window=9))(q, k, v)
    order = np.random.default_rng(0).permutation(T)  # a cache may hold its keys in any order
    positions = {"q_positions_BT": jnp.arange(T)[None], "k_positions_BS": jnp.asarray(order)[None]}
    shuffled = jax.jit(functools.partial(ops.attention, causal="positions", window=9, **positions))(q, k[:, order], v[:, order])
    np.testing.assert_allclose(rows, shuffled, atol=2e-6)


def test_dropout_of_weights_keeps_the_expectation_and_differs_by_key():
    q, k, v, _ = inputs(length=64)
    attend = jax.jit(lambda key: ops.attention(q, k, v, dropout_rate=0.3, dropout_key=key, implementation="blocked"))
    outs = np.stack([attend(key) for key in jax.random.split(jax.random.key(1), 400)])
    assert np.abs(outs[0] - outs[1]).max() > 0.1
    np.testing.assert_allclose(outs.mean(0), ops.attention(q, k, v), atol=0.35)
    assert abs((outs.mean(0) - np.asarray(ops.attention(q, k, v))).mean()) < 0.01


def resolve(name="auto", **changes):
    usual = {"platform": "cpu", "dtype": jnp.float32, "num_queries": 256, "num_keys": 256, "head_dim": 64, "masked": False}
    return attention_kernels.resolve(name, **{**usual, **changes})


def test_auto_picks_by_platform_dtype_and_shape():
    assert resolve() == "blocked"
    assert resolve(num_queries=1) == resolve(causal="positions") == "reference"
    assert resolve(platform="gpu", dtype=jnp.bfloat16) == "cudnn"
    assert resolve(platform="gpu", dtype=jnp.bfloat16, softcap=30.0) == "blocked"
    assert resolve(platform="gpu") == "xla"
    long = dict(platform="tpu", num_queries=8192, num_keys=8192)
    assert resolve(**long) == resolve(**long, softcap=30.0) == resolve(**long, masked=True, beyond_segments=False) == "splash"
    assert resolve(**long, masked=True) == resolve(**long, dropout_rate=0.1) == resolve(**long, score="another") == "blocked"
    assert resolve(platform="tpu", num_queries=8192, num_keys=100) == "blocked" and resolve(platform="tpu") == "xla"
    assert resolve("reference", platform="gpu") == "reference"
    odd = dict(platform="gpu", dtype=jnp.bfloat16, num_keys=255)
    assert resolve(**odd) == "cudnn" and resolve(**odd, masked=True) == "xla"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "NVIDIA GPU, this is cpu"),
        ({"platform": "gpu"}, "not in float32"),
        ({"platform": "gpu", "dtype": jnp.bfloat16, "head_dim": 20}, "head_dim must be a multiple of 8"),
        ({"platform": "gpu", "dtype": jnp.bfloat16, "softcap": 1.0}, "no logit soft cap"),
        ({"platform": "gpu", "dtype": jnp.bfloat16, "masked": True, "num_queries": 7}, "even numbers of queries and keys, not 7 and 256"),
    ],
)
def test_an_impossible_kernel_is_refused_with_the_reason(changes, why):
    with pytest.raises(UserError, match=why):
        resolve("cudnn", **changes)


@pytest.mark.parametrize("length", [7, 8])
def test_auto_knows_what_a_fused_kernel_is_masked_by(length, monkeypatch):
    """cuDNN's gradient refuses odd lengths where it is handed a mask or a bias: a bucket of 7 must not stop a training on a GPU."""
    q, k, v = (jnp.zeros((B, length, N, H), jnp.bfloat16) for _ in range(3))
    ones, slopes = jnp.ones((B, length), jnp.int32), jnp.asarray(position_bias.alibi_slopes(N))
    bare = [{}, {"window": 3}, {"causal": None}]
    masked = [{"prefix_BT": ones}, {"bias_fn": functools.partial(position_bias.alibi, slopes)}, {"causal": None, "window": 3}]
    masked += [{"q_segments_BT": ones, "k_segments_BS": ones, "causal": causal} for causal in ("rows", None)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    handed = []

    def kernel(q, k, v, *, implementation, mask, bias, **kw):
        handed.append((implementation, mask is not None or bias is not None))
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    for arguments in bare + masked:
        ops.attention(q, k, v, **arguments)
    assert handed == [("cudnn", False)] * len(bare) + [("xla" if length % 2 else "cudnn", True)] * len(masked)


def test_unknown_names_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match='Did you mean "blocked"'):
        resolve("bloked")
    q, k, v, _ = inputs(3)
    with pytest.raises(ValueError, match="4 query heads cannot share 3"):
        ops.attention(q, k, v)
    q, k, v, _ = inputs()
    with pytest.raises(ValueError, match="as many queries as keys"):
        ops.attention(q[:, :5], k, v)


@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("name", NAMES)
def test_a_prefix_sees_itself_in_both_directions_and_nothing_else_changes(name, window):
    q, k, v, _ = inputs()
    length_B = np.array([90, 0])
    prefix = np.arange(T)[None] < length_B[:, None]
    attend = jax.jit(functools.partial(ops.attention, implementation=name, window=window))
    out = attend(q, k, v, prefix_BT=jnp.asarray(prefix.astype(np.int32)))
    np.testing.assert_allclose(out[1], attend(q, k, v)[1], atol=2e-6)
    expected = oracle(q, k, v, window=window)
    # the prefix alone, with no causality, is what its own places see
    both_ways = jax.jit(functools.partial(ops.attention, causal=None, implementation="reference", window=window))
    expected[0, :90] = both_ways(q[:1, :90], k[:1, :90], v[:1, :90])[0]
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("case", ["plain", "window", "segments", "alibi", "softcap"])
def test_weights_mix_the_values_into_what_attention_returns(case):
    q, k, v, _ = inputs()
    _, arguments = settings(case)
    weights = jax.jit(functools.partial(ops.weights, **arguments))(q, k)
    assert weights.shape == (B, N, T, T) and weights.dtype == jnp.float32
    mixed = np.einsum("BNTS,BSNH->BTNH", weights, np.repeat(v, N // K, axis=2))
    np.testing.assert_allclose(mixed, ops.attention(q, k, v, implementation="reference", **arguments), atol=2e-6)


def test_another_score_gives_the_logits_and_excludes_kernels_that_know_only_one():
    q, k, v, _ = inputs()

    def dot(q_BTNH, k_BSNH):
        return jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) * H**-0.5

    for name in ("reference", "blocked"):
        out = jax.jit(functools.partial(ops.attention, implementation=name, score_fn=dot))(q, k, v)
        np.testing.assert_allclose(out, oracle(q, k, v), atol=2e-6)
    with pytest.raises(UserError, match="scaled dot product"):
        ops.attention(q, k, v, score_fn=dot, implementation="xla")


def test_a_prefix_without_rows_of_its_own_is_refused():
    q, k, v, _ = inputs()
    with pytest.raises(ValueError, match='needs causal="rows"'):
        ops.attention(q, k, v, causal=None, prefix_BT=jnp.ones((B, T), jnp.int32))
