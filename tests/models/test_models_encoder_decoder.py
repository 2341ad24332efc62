"""Encoders and decoders joined: the published sizes exactly, one table for all, the same by source and by memory."""

import functools
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import flops
from decoder_lab.core.errors import UserError
from decoder_lab.models import decoder_only
from decoder_lab.models.encoder_decoder import VARIANTS, Model, problems

pytestmark = pytest.mark.usefixtures("strict_numerics")
V, U, B, S, T = 11, 9, 2, 6, 5
TRANSFORMER = dict(name="transformer", kw=dict(num_layers=2, num_heads=2, width=8, init_stddev=0.4))
RECURRENT = dict(name="recurrent", kw=dict(width=8))
CONVOLUTIONAL = dict(name="convolutional", kw=dict(style="stack", width=8, embedding_dim=8, num_layers=1))
BAG = dict(name="bag_of_embeddings", kw=dict(embedding_dim=8))
CONVOLUTIONAL_DECODER = dict(name="convolutional", kw=dict(width=8, embedding_dim=8, num_layers=2))
JOINTS = {
    "transformers": dict(encoder=TRANSFORMER, decoder=TRANSFORMER),
    "to_recurrent": dict(encoder=TRANSFORMER, decoder=RECURRENT),
    "from_recurrent": dict(encoder=RECURRENT, decoder=TRANSFORMER),
    "from_convolutional": dict(encoder=CONVOLUTIONAL, decoder=TRANSFORMER),
    "recurrent": dict(encoder=RECURRENT, decoder=dict(name="recurrent", kw=dict(width=8, attention="dot", window=1))),
    "bag_to_convolutional": dict(encoder=BAG, decoder=CONVOLUTIONAL_DECODER),
    "convolutional": dict(encoder=CONVOLUTIONAL, decoder=CONVOLUTIONAL_DECODER),  # ConvS2S, whose decoder reads the source's embeddings too
    "recurrent_to_convolutional": dict(encoder=RECURRENT, decoder=CONVOLUTIONAL_DECODER),
}
rng = np.random.default_rng(0)
SOURCE, TARGET = (jnp.asarray(rng.integers(0, n, shape), jnp.int32) for n, shape in ((U, (B, S)), (V, (B, T))))
SEGMENTS = jnp.asarray([[1] * 6, [1] * 4 + [0] * 2])


@functools.cache
def made(joint):
    model = Model(V, U, 16, jnp.float32, **JOINTS[joint])
    return model, jax.jit(lambda: model.init(jax.random.key(0), TARGET, source_BS=SOURCE))()


COUNTS = {  # vocabularies of target and source, length, parameters
    "bahdanau2014": (30_000, 30_000, 50, 80_446_000),
    "luong2015": (50_000, 50_000, 50, 221_082_000),
    "tutorial_lstm": (5_893, 7_853, 100, 13_898_501 - 4 * 2048),  # torch keeps two biases a gate: two layers a side, four gates of 512
    "tutorial_gru": (5_893, 7_853, 100, 14_219_781 - 2 * 1024),  # likewise, but a candidate needs both: two gates
    "tutorial_bahdanau": (5_893, 7_853, 100, 20_518_405 - 3 * 1024),
    "tutorial_transformer": (5_893, 7_853, 100, 9_038_341),
    "multi30k_tiny": (9_712, 9_712, 256, 2_568_192),
    "transformer_base": (37_000, 37_000, 256, 63_045_632),
    "transformer_big": (37_000, 37_000, 256, 214_171_648),
    "t5-small": (32_128, 32_128, 512, 60_506_624),
    "t5-base": (32_128, 32_128, 512, 222_903_552),
    "t5-large": (32_128, 32_128, 512, 737_668_096),
    "t5-3b": (32_128, 32_128, 512, 2_851_598_336),
    "t5-11b": (32_128, 32_128, 512, 11_307_321_344),
    "t5-v1.1-small": (32_128, 32_128, 512, 76_961_152),
    "t5-v1.1-base": (32_128, 32_128, 512, 247_577_856),
    "bart-base": (50_265, 50_265, 1024, 139_420_416 - 2 * 2 * 768),  # its tables have two positions more a side
    "bart-large": (50_265, 50_265, 1024, 406_291_456 - 2 * 2 * 1024),
    "marian": (58_101, 58_101, 512, 74_410_496 - 2 * 512 * 512 + 58_101),  # sinusoidal tables counted there, the logits' bias not
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_parameter_counts_of_the_published_sizes(variant):
    vocab_size, source_vocab_size, length, count = COUNTS[variant]
    kw = dict(VARIANTS[variant])
    for side in ("encoder", "decoder"):
        if kw[side]["name"] == "transformer":  # scanned, because tracing one layer is all it takes
            kw[side] = dict(name="transformer", kw={**kw[side]["kw"], "scan_layers": True})
    model = Model(vocab_size, source_vocab_size, length, jnp.float32, **kw)
    one = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda key: model.init(key, one, source_BS=one), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    assert f"{count:,}" in pathlib.Path(inspect.getfile(Model)).read_text()  # it is stated there


@pytest.mark.parametrize("joint", sorted(JOINTS))
def test_decoding_from_the_memory_equals_teacher_forcing_and_neither_padding_nor_other_pairs_of_a_row_change_anything(joint):
    """KNOWN_BUGS 6, 17, 21: what stands in a source's padding, and whether a pair has a row of its own or shares one."""
    model, variables = made(joint)

    @jax.jit
    def forward(v, source, source_segments, target, segments):
        return model.apply(v, target, source_BS=source, source_segments_BS=source_segments, segments_BT=segments)[0]

    wild = jnp.where(SEGMENTS == 0, 10**6, SOURCE)
    whole = forward(variables, wild, SEGMENTS, TARGET, jnp.ones_like(TARGET))
    memory = jax.jit(lambda v: model.apply(v, wild, SEGMENTS, method="encode"))(variables)
    assert memory.prepared is not None
    step = jax.jit(lambda v, x, cache, memory: model.apply(v, x, cache=cache, memory=memory))
    cache, parts = model.init_cache(B, T), []
    for start, end in ((0, 2), (2, 3), (3, 5)):
        logits, cache = step(variables, TARGET[:, start:end], cache, memory)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=3e-5)
    alone, _ = jax.jit(lambda v: model.apply(v, TARGET[1:], source_BS=SOURCE[1:, :4]))(variables)
    np.testing.assert_allclose(alone[0], whole[1], atol=3e-5)

    shared = forward(variables, SOURCE, jnp.asarray([[1, 1, 1, 1, 2, 2]] * 2), TARGET, jnp.asarray([[1, 1, 2, 2, 2]] * 2))
    source, target = (jnp.stack([row, jnp.roll(row, -first)]) for row, first in ((SOURCE[0], 4), (TARGET[0], 2)))  # the row's two pairs
    reads, writes = jnp.asarray([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]), jnp.asarray([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    apart = forward(variables, source, reads, target, writes)
    np.testing.assert_allclose(shared[0], jnp.concatenate([apart[0, :2], apart[1, :3]]), atol=3e-5)


def test_a_target_of_several_blocks_over_a_short_source_has_the_reference_gradients():
    """Rows of more than 64 targets are attended block by block, over a source that is shorter than one block."""
    target = jnp.asarray(rng.integers(0, V, (B, 100)), jnp.int32)

    def gradients(attention):
        decoder = dict(name="transformer", kw=TRANSFORMER["kw"] | dict(num_layers=1, attention=attention))
        model = Model(V, U, 100, jnp.float32, encoder=BAG, decoder=decoder)

        def loss(variables):
            return jnp.square(model.apply(variables, target, source_BS=SOURCE, source_segments_BS=SEGMENTS)[0]).mean()

        variables = jax.jit(lambda: model.init(jax.random.key(0), TARGET, source_BS=SOURCE))()
        return jax.jit(jax.grad(loss))(variables)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients("blocked"), gradients("reference"))


def test_one_table_serves_source_target_and_logits():
    model = Model(V, V, 16, jnp.float32, **JOINTS["transformers"], share_embeddings=True)
    params = jax.jit(lambda: model.init(jax.random.key(0), TARGET, source_BS=SOURCE))()["params"]
    tables = [jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(params) if V in x.shape]
    assert tables == ["['token_embedding']['embedding']"]
    hidden, _ = model.apply({"params": params}, TARGET, source_BS=SOURCE, return_hidden=True)
    logits, _ = model.apply({"params": params}, TARGET, source_BS=SOURCE)
    np.testing.assert_allclose(model.apply({"params": params}, hidden, method="unembed"), logits, atol=1e-5)
    np.testing.assert_allclose(logits, hidden @ params["token_embedding"]["embedding"].T, atol=1e-5)
    with pytest.raises(UserError, match="one vocabulary"):
        Model(V, U, 16, jnp.float32, share_embeddings=True).init(jax.random.key(0), TARGET, source_BS=SOURCE)


def test_parameters_are_below_the_names_of_the_sides():
    _, variables = made("from_recurrent")
    assert set(variables["params"]) == {"encoder", "decoder"}
    assert "token_embedding" in variables["params"]["encoder"] and "cross_attention" in variables["params"]["decoder"]["decoder"]["layer_0"]


def test_the_longest_context_is_the_decoders():
    assert made("transformers")[0].context_length == 16 and made("to_recurrent")[0].context_length is None


def test_what_cannot_be_is_refused():
    model, variables = made("transformers")
    with pytest.raises(ValueError, match="one of the two"):
        model.apply(variables, TARGET)
    said = 'model encoder_decoder: expected a decoder that knows sampling_rate, got "transformer". Those of the lab that do: recurrent.'
    with pytest.raises(UserError, match=said):  # also where no config has been checked
        model.apply(variables, TARGET, source_BS=SOURCE, sampling_rate=0.5)
    sides = dict(encoder=dict(name="recurrent", kw=dict(width=8, embedding_dim=4)), decoder=TRANSFORMER)
    assert "one width, got 4" in problems(dict(**sides, share_embeddings=True))[0]
    assert problems(dict(**sides, share_embeddings=False)) == []


@pytest.mark.parametrize("tied, gated", [(True, False), (False, True)])
def test_flops_are_those_of_the_weights_and_of_attention(tied, gated):
    """By the rule of decoder_only: 6 a multiplying weight, 12 N H a pair of tokens for each attention."""
    width, mlp, heads, length = 8, 24, 2 * 6, 10
    kw = dict(num_layers=3, num_heads=2, num_kv_heads=1, head_dim=6, width=width, mlp_dim=mlp, mlp="swiglu" if gated else "gelu")
    decoder = dict(name="transformer", kw=dict(kw, tie_embeddings=tied, num_layers=2))
    model = Model(V, U, 16, jnp.float32, encoder=dict(name="transformer", kw=kw), decoder=decoder)
    attention, feed_forward = width * (2 * heads + 2 * 6), (3 if gated else 2) * width * mlp
    weights = 3 * (attention + feed_forward) + 2 * (2 * attention + feed_forward) + V * width
    assert model.flops_per_token(length) == 6 * weights + 12 * (3 + 2 * 2) * heads * length
    language_model = decoder_only.Model(V, 16, jnp.float32, **kw, attention="reference")
    tokens = jnp.zeros((1, length), jnp.int32)
    variables = jax.eval_shape(lambda: language_model.init(jax.random.key(0), tokens))
    counted = 3 * flops.products(lambda v: language_model.apply(v, tokens)[0], variables) / length
    assert counted == language_model.flops_per_token(length)


def test_flops_of_recurrent_parts_count_every_step():
    width, length = 8, 7
    encoder = dict(name="recurrent", kw=dict(width=width, cell="gru"))
    decoder = dict(name="recurrent", kw=dict(width=width, attention="general", bridge="copy", output="luong", input_feeding=True))
    model = Model(V, U, 16, jnp.float32, encoder=encoder, decoder=decoder)
    weights = 3 * 2 * width**2 + 4 * 3 * width**2 + width**2 + 2 * width**2 + V * width  # cells, keys, attentional state, logits
    picked = 2 * width  # (c, h) that the text begins with, looked up by a product with the places of the source
    assert model.flops_per_token(length) == 6 * (weights + 2 * width * length + picked)
