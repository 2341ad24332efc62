"""Virtual tokens, learned keys and learned states: cached equals uncached, whatever the padding (KNOWN_BUGS 5, 17)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup, tree
from decoder_lab.core.errors import UserError
from decoder_lab.decoding.batches import stack
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import Sampling
from decoder_lab.training.adaptation import Adaptation

V, T, P = 11, 8, 3
RNG = np.random.default_rng(0)
TRANSFORMER = dict(name="transformer", kw=dict(num_layers=1, num_heads=2, width=8))
MODELS = {
    "learned": dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=8)),
    "rotary": dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, num_kv_heads=1, width=8, position="rotary")),
    "recurrent": dict(name="recurrent_lm", kw=dict(cell="lstm", width=8)),
    "convolutional": dict(name="convolutional_lm", kw=dict(width=8, embedding_dim=8, num_layers=2)),
    "seq2seq": dict(name="encoder_decoder", kw={side: TRANSFORMER for side in ("encoder", "decoder")}),
}
GREEDY = Sampling(temperature=0.0)


class Task:
    def dummy(self):
        return {"tokens": np.zeros((1, T), np.int32)}

    def forward(self, model, batch, deterministic):
        source = {"source_BS": batch["tokens"]} if hasattr(model, "encode") else {}
        return model(batch["tokens"], **source, deterministic=deterministic)[0]


@functools.cache
def adapted(name, method):
    """Returns (adapted model, random parameters)."""
    adapter = lookup.make("adapter", dict(name=method, kw=dict(num_tokens=P)))
    longer = getattr(adapter, "lengthens", 0)
    model = lookup.make("model", MODELS[name], vocab_size=V, source_vocab_size=V, max_length=T + longer, dtype=jnp.float32)
    adaptation = Adaptation(adapter, model, Task(), jax.random.key(0))
    leaves = [
        0.5 * np.random.default_rng(i).standard_normal(x.shape).astype(np.float32) for i, x in enumerate(jax.tree.leaves(adaptation.shapes))
    ]
    return adaptation.model, jax.tree.unflatten(jax.tree.structure(adaptation.shapes), leaves)


def greedy(model, params, prompt, num_tokens, source=None):
    """The most probable continuation and its log-probability, by reading everything anew for every token."""
    tokens, total = list(prompt), 0.0
    for _ in range(num_tokens):
        page = np.zeros((1, T), np.int32)
        page[0, : len(tokens)] = tokens
        segments = (np.arange(T) < len(tokens)).astype(np.int32)[None]
        logits = uncached(model)(params, page, segments, *([] if source is None else [np.int32([source])]))
        log_p = jax.nn.log_softmax(logits[0, len(tokens) - 1])
        tokens.append(int(np.argmax(log_p)))
        total += float(log_p[tokens[-1]])
    return tokens[len(prompt) :], pytest.approx(total, rel=1e-3)


@functools.cache
def uncached(model):
    def run(params, tokens, segments, *source):
        given = {"source_BS": source[0]} if source else {}
        return model.apply({"params": params}, tokens, segments_BT=segments, **given)[0]

    return jax.jit(run)


PAIRS = [("rotary", "prompt"), ("recurrent", "prompt"), ("convolutional", "prompt"), ("rotary", "prefix"), ("recurrent", "prefix")]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_generated_equals_uncached(name, method):
    """Prompts of one token and of several in one batch; greedy, so any difference in a mask, a position or a cache shows."""
    model, params = adapted(name, method)
    prompts = [[3], [1, 2, 3, 4], [5, 6]]
    written = Generator.from_model(model).generate(params, prompts, 4, GREEDY)
    for prompt, (text,) in zip(prompts, written, strict=True):
        assert (text.tokens, text.logprob) == greedy(model, params, prompt, 4)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_generated_from_a_source_equals_uncached(method):
    """The encoder reads the virtual tokens before each source, however long it is; what they were is in every text that is written."""
    model, params = adapted("seq2seq", method)
    sources = [[3, 1, 4, 1], [5, 9, 2, 6], [7, 7]]
    inputs = stack([dict(source=np.int32(source), source_segments=np.ones(len(source), np.int32)) for source in sources])
    written = Generator.from_model(model).generate(params, [[1]] * 3, 4, GREEDY, inputs=inputs)
    for source, (text,) in zip(sources, written, strict=True):
        assert (text.tokens, text.logprob) == greedy(model, params, [1], 4, source)
    page, segments = np.zeros((1, T), np.int32), np.ones((1, T), np.int32)
    without = {**params, "encoder": {name: x for name, x in params["encoder"].items() if name != "prompt"}}
    without = _without_prefix(without)
    outputs = [uncached(model)(x, page, segments, np.int32([sources[0]])) for x in (params, without)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2


@pytest.mark.parametrize("name", ["learned", "recurrent", "convolutional"])
def test_padding_and_neighbours_change_nothing(name):
    """The logits are the text's own, one for each of its tokens, wherever padding stands and with positions given or not."""
    model, params = adapted(name, "prompt")
    text = RNG.integers(0, V, 5)
    alone = uncached(model)(params, text[None], np.ones((1, 5), np.int32))
    pages, segments = np.zeros((3, T), np.int64), np.zeros((3, T), np.int32)
    for row, start in enumerate((0, 2, 3)):
        pages[row, start : start + 5], segments[row, start : start + 5] = text, 1
    found = uncached(model)(params, pages, segments)
    assert found.shape == (3, T, V)
    for row, start in enumerate((0, 2, 3)):
        np.testing.assert_allclose(found[row, start : start + 5], alone[0], atol=2e-5)
    positions = np.maximum(np.arange(T)[None] - np.array([[0], [2], [3]]), 0)
    given = model.apply({"params": params}, pages, segments_BT=segments, positions_BT=positions)[0]
    np.testing.assert_allclose(np.where(segments[..., None], given, 0), np.where(segments[..., None], found, 0), atol=2e-5)


def test_virtual_tokens_are_embedded_rows_before_the_text():
    """With embeddings of real tokens the model computes what it computes of these tokens before the text."""
    model, params = adapted("rotary", "prompt")
    virtual, text = np.array([4, 0, 7]), RNG.integers(0, V, 5)
    table = params["token_embedding"]["embedding"]
    params = {**params, "prompt": table[virtual]}
    found = uncached(model)(params, text[None], np.ones((1, 5), np.int32))
    plain = {name: value for name, value in params.items() if name != "prompt"}
    whole = model.model.apply({"params": plain}, np.concatenate([virtual, text])[None])[0]
    np.testing.assert_allclose(found, whole[:, P:], atol=2e-5)


def test_learned_keys_are_read_by_every_document():
    """Documents of one row know nothing of each other and all read the learned keys."""
    model, params = adapted("rotary", "prefix")
    one, other = RNG.integers(0, V, 3), RNG.integers(0, V, 4)
    segments = np.array([[1] * 3 + [2] * 4])
    both = uncached(model)(params, np.concatenate([one, other])[None], segments)
    for text, cut in ((one, slice(0, 3)), (other, slice(3, 7))):
        np.testing.assert_allclose(both[:, cut], uncached(model)(params, text[None], np.ones((1, len(text)), np.int32)), atol=2e-5)
    without = model.model.apply({"params": _without_prefix(params)}, one[None])[0]
    assert np.abs(without - both[:, :3]).max() > 1e-2


def _without_prefix(params):
    return tree.nest({path: leaf for path, leaf in tree.flatten(params).items() if "prefix_" not in path})


def test_a_context_that_rolls_keeps_its_virtual_tokens():
    model, params = adapted("rotary", "prompt")
    assert model.max_length == T
    text = Generator.from_model(model).generate(params, [[1, 2, 3, 4, 5, 6]], 6, GREEDY)[0][0].tokens
    tokens = [1, 2, 3, 4, 5, 6, *text[:3]]  # of T + 1 tokens the newest half is kept
    assert [text[3]] == greedy(model, params, tokens[-T // 2 :], 1)[0]


def test_scheduled_sampling_is_refused():
    model, params = adapted("recurrent", "prompt")
    with pytest.raises(UserError, match="would replace virtual tokens"):
        model.apply({"params": params}, np.zeros((1, 3), int), sampling_rate=0.5, rngs={"sampling": jax.random.key(0)})
