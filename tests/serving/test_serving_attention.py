"""What cannot be drawn of a model is found from the shapes of its parameters, before they are loaded."""

import functools

import jax
import jax.numpy as jnp
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer.word import Tokenizer
from decoder_lab.serving import attention
from decoder_lab.tasks import language_modeling, sequence_to_sequence, span_corruption

SMALL = dict(num_layers=2, num_heads=2, width=8)
PAIR_MODEL = dict(encoder=dict(name="transformer", kw=SMALL), decoder=dict(name="transformer", kw=SMALL))


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
