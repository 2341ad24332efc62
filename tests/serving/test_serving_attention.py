"""What is drawn is where the decoder looks as it predicts each token, and what cannot be drawn is found before parameters are loaded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer.word import Tokenizer
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY
from decoder_lab.decoding.text import piece
from decoder_lab.serving import attention
from decoder_lab.tasks import language_modeling, sequence_to_sequence, span_corruption

SMALL = dict(num_layers=2, num_heads=2, width=8)
PAIR_MODEL = dict(encoder=dict(name="transformer", kw=SMALL), decoder=dict(name="transformer", kw=SMALL))

BAG = dict(name="bag_of_embeddings", kw=dict(embedding_dim=8, num_buckets=64, embedding_stddev=1.0))
CONVOLUTIONAL = dict(width=8, embedding_dim=8, num_layers=2, embedding_stddev=1.0)
DECODERS = {  # with the path of the module that looks at the source in layer 0
    "transformer": (dict(SMALL, init_stddev=0.7), ("decoder", "decoder", "layer_0", "cross_attention")),
    "convolutional": (CONVOLUTIONAL, ("decoder", "layer_0", "cross_attention")),
}


@functools.cache
def tokenizer():
    made = Tokenizer()
    made.load(made.train(["a b c d"]))
    return made


def check(name, kw, task, *texts):
    given = dict(vocab_size=tokenizer().vocab_size, source_vocab_size=tokenizer().vocab_size, max_length=8, dtype=jnp.float32)
    if hasattr(task, "sizes"):
        given |= task.sizes()
    model = lookup.make("model", dict(name=name, kw=kw), **given)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))["params"]
    return attention.check(model, shapes, task, tokenizer(), *texts)


@pytest.mark.parametrize("name", DECODERS)
def test_a_row_is_where_the_decoder_looks_as_it_predicts_that_token(name):
    """KNOWN_BUGS 12: with one and two ids before the target, given or written; whatever tokens follow, they move no row before them."""
    kw, path = DECODERS[name]
    given = dict(vocab_size=tokenizer().vocab_size, source_vocab_size=tokenizer().vocab_size, max_length=16, dtype=jnp.float32)
    model = lookup.make("model", dict(name="encoder_decoder", kw=dict(encoder=BAG, decoder=dict(name=name, kw=kw))), **given)
    eos, [first] = tokenizer().eos_id, tokenizer().encode("d").tolist()
    one = sequence_to_sequence.Task(tokenizer(), tokenizer(), 16)
    params = jax.jit(lambda key: model.init(key, one.dummy(), True, method=one.forward))(jax.random.key(3))["params"]
    source = one.prompt({"source": "a b c a d"})["inputs"]["source"]

    @jax.jit
    def weights(tokens_BT):  # of both layers, float32 [L, B, N, T, S]
        sources_BS = jnp.tile(source, (len(tokens_BT), 1))
        _, sown = model.apply({"params": params}, tokens_BT, source_BS=sources_BS, mutable=["attention"])
        layers = [[part.replace("layer_0", f"layer_{i}") for part in path] for i in range(2)]
        return jnp.stack([functools.reduce(lambda node, part: node[part], layer, sown["attention"])["weights"][0] for layer in layers])

    rng, drawn = np.random.default_rng(0), {}
    for start, target in (((), "b a d c"), ((eos, first), "b a d c"), ((eos, first), None)):
        task = sequence_to_sequence.Task(tokenizer(), tokenizer(), 16, start_ids=start)
        begin = list(start) or [eos]
        found = attention.align(model, params, task, tokenizer(), "a b c a d", target, tokenizer(), num_tokens=4)
        if target is None:
            inputs = dict(source=source[None], source_segments=np.ones((1, len(source)), np.int32))
            [[text]] = Generator.for_task(model, tokenizer(), task).generate(params, [begin], 4, GREEDY, inputs=inputs)
        ids = text.tokens if target is None else tokenizer().encode(target).tolist()
        assert ids and found.text == tokenizer().decode(ids) and found.columns == ["a", "b", "c", "a", "d", "⟨eos⟩"]
        assert found.rows == [piece(tokenizer(), i) for i in ids] + ["⟨eos⟩"]
        tokens_BT = rng.integers(0, tokenizer().vocab_size, (5, 6))  # a text for each row: what was written before it, and then anything
        for row in range(len(ids) + 1):
            tokens_BT[row, : len(begin) + row] = [*begin, *ids[:row]]
        own = np.asarray(weights(tokens_BT))
        wanted = np.stack([own[:, row, :, len(begin) + row - 1] for row in range(len(ids) + 1)], axis=2)
        np.testing.assert_allclose([weights_NTS for _, weights_NTS in found.layers], wanted, atol=1e-5)
        drawn[len(begin), target] = wanted
    assert np.abs(drawn[1, "b a d c"] - drawn[2, "b a d c"]).max() > 0.01  # what stands before the target matters


def test_layers_are_known_without_parameters():
    pairs, text = sequence_to_sequence.Task(tokenizer(), tokenizer(), 8), language_modeling.Task(tokenizer())
    layers = check("encoder_decoder", PAIR_MODEL, pairs, "a b c", "b c")
    assert [weights.shape for _, weights in layers] == [(2, 3, 4)] * 2
    for scan in (False, True):
        layers = check("decoder_only", dict(SMALL, num_layers=3, scan_layers=scan), text, "a b c", "d")
        assert [weights.shape for _, weights in layers] == [(2, 4, 4)] * 3
        assert [str(i) in name for i, (name, _) in enumerate(layers)] == [True] * 3  # in the layers' order


def test_what_cannot_be_drawn_is_said():
    pairs, text = sequence_to_sequence.Task(tokenizer(), tokenizer(), 8), language_modeling.Task(tokenizer())
    with pytest.raises(UserError, match="--target: 10 tokens, expected at most the 8"):
        check("encoder_decoder", PAIR_MODEL, pairs, "a", "b " * 9)
    with pytest.raises(UserError, match="--prompt: 9 tokens, expected at most the 8"):
        check("decoder_only", SMALL, text, "a " * 9)
    with pytest.raises(UserError, match="its task does not say what a source"):
        check("encoder_decoder", PAIR_MODEL, span_corruption.Task(tokenizer(), 8), "a b")
    with pytest.raises(UserError, match="no text to look at"):
        check("decoder_only", SMALL, text, "")
    with pytest.raises(UserError, match="no attention weights to show"):
        check("recurrent_lm", dict(width=8), text, "a b")
