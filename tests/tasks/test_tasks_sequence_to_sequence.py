"""Pairs of texts: what stands in a batch, what is trained, and what must not leak."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.decoders.recurrent import Decoder
from decoder_lab.decoding.batches import stack
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY
from decoder_lab.encoders.recurrent import Encoder
from decoder_lab.tasks.sequence_to_sequence import Task, problems

EOS = 0


class Letters:
    """a..h are 1..8, 0 ends a text."""

    eos_id, vocab_size = EOS, 9

    def encode(self, text):
        return np.array([ord(c) - 96 for c in text], np.int32)

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


class Model(nn.Module):
    """A recurrent encoder and decoder with attention."""

    max_length = 16
    context_length = None

    def setup(self):
        self.encoder = Encoder(9, 16, jnp.float32, cell="gru", width=12, bidirectional=True)
        self.decoder = Decoder(9, 16, jnp.float32, cell="gru", width=12)

    def encode(self, source_BS, source_segments_BS=None):
        return self.decoder.prepare(self.encoder(source_BS, segments_BS=source_segments_BS))

    def __call__(self, tokens_BT, *, source_BS=None, source_segments_BS=None, memory=None, **extra):
        if memory is None:
            memory = self.encode(source_BS, source_segments_BS)
        return self.decoder(tokens_BT, memory=memory, **extra)

    def unembed(self, hidden_BTD):
        return self.decoder.unembed(hidden_BTD)

    @nn.nowrap
    def init_cache(self, batch_size, max_length):
        return Decoder(9, 16, jnp.float32, cell="gru", width=12).init_cache(batch_size, max_length)


def task(**kw) -> Task:
    return Task(Letters(), Letters(), 8, **kw)


def batch_of(task, pairs, width=None):
    found = stack([task.example({"source": s, "target": t}) for s, t in pairs])
    return {k: np.pad(x, ((0, 0), (0, (width or x.shape[1]) - x.shape[1]))) for k, x in found.items()}


@functools.cache
def params_of(seed=0):
    made = task()
    params = jax.jit(lambda key: Model().init(key, made.dummy(), True, method=made.forward))(jax.random.key(seed))["params"]
    return jax.tree.map(lambda p: 3 * p, params)


def metrics(task, batch, rng=None, progress=None):
    found = jax.jit(lambda p, b: task.metrics(Model(), p, b, rng=rng, progress=progress))(params_of(), batch)
    return {name: (float(a), float(b)) for name, (a, b) in found.items()}


PAIRS = [("abc", "cba"), ("h", ""), ("abcdefg", "ab")]


def test_inputs_are_the_labels_one_later():
    """KNOWN_BUGS 9, 12: eos begins the input and ends the labels, both of which count, and padding is no label whatever its id."""
    found = task().example({"source": "abc", "target": "fed"})
    assert found["source"].tolist() == [1, 2, 3, EOS] and found["labels"].tolist() == [6, 5, 4, EOS]
    assert found["tokens"].tolist() == [EOS, 6, 5, 4] and found["weights"].tolist() == [1, 1, 1, 1]
    batch = batch_of(task(), PAIRS)
    assert batch["weights"].sum(axis=1).tolist() == [4, 1, 3]
    assert metrics(task(), batch)["loss"][1] == 8


def test_too_long_texts_are_cut_or_left_out_and_counted():
    """A source keeps its eos; a target that goes on has none, so that nobody learns to stop there."""
    made = task(max_source_length=4, max_target_length=3)
    found = made.example({"source": "abcdef", "target": "abcd"})
    assert found["source"].tolist() == [1, 2, 3, EOS] and found["labels"].tolist() == [1, 2, 3] and found["tokens"].tolist() == [EOS, 1, 2]
    made.example({"source": "abc", "target": "ab"})
    assert list(made.counts.values()) == [1, 1] and "sources of more than 4 tokens" in next(iter(made.counts))
    dropping = task(too_long="drop", max_target_length=3)
    assert dropping.example({"source": "a", "target": "abcd"}) == [] and "left out" in next(iter(dropping.counts))
    assert dropping.prompt({"source": "abcdefghab"})["inputs"]["source"].tolist() == [1, 2, 3, 4, 5, 6, 7, EOS]
    assert made.fingerprint() != dropping.fingerprint() != task().fingerprint()
    assert task(source_eos=False).example({"source": "abc", "target": "a"})["source"].tolist() == [1, 2, 3]


def test_no_label_moves_logits_before_it():
    """KNOWN_BUGS 12: label t is the input of step t + 1 and of no step before."""
    made = task()
    forward = jax.jit(lambda p, b: Model().apply({"params": p}, b, True, method=made.forward))
    logits = [np.asarray(forward(params_of(), batch_of(made, [("abcde", target)]))) for target in ("abcdefg", "abchefg")]
    np.testing.assert_array_equal(logits[0][:, :4], logits[1][:, :4])
    assert np.abs(logits[0][:, 4] - logits[1][:, 4]).max() > 1e-3


def test_padding_and_filler_rows_change_nothing():
    made, plain = task(), batch_of(task(), PAIRS)
    wide = {k: np.pad(x, ((0, 2), (0, 5))) for k, x in plain.items()}
    for name, (total, weight) in metrics(made, plain).items():
        np.testing.assert_allclose(metrics(made, wide)[name], (total, weight), rtol=1e-5)


def test_label_smoothing_is_of_training_alone_and_by_its_definition():
    """KNOWN_BUGS 11: (1 - eps) onehot + eps / V with V classes, padding left out; without rng the plain loss."""
    logits_BTV = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 5)), jnp.float32)
    batch = {"labels": np.array([[2, 4, 1]]), "weights": np.array([[1.0, 1.0, 0.0]], np.float32)}
    fixed = types.SimpleNamespace(apply=lambda *a, **k: logits_BTV)
    logp = np.asarray(jax.nn.log_softmax(logits_BTV))[0]
    target = 0.8 * np.eye(5)[[2, 4]] + 0.2 / 5
    smooth = task(label_smoothing=0.2)
    found = smooth.metrics(fixed, {}, batch, rng=jax.random.key(0))
    np.testing.assert_allclose(found["loss"][0], -(target * logp[:2]).sum(), rtol=1e-5)
    np.testing.assert_allclose(found["nll"][0], -(logp[0, 2] + logp[1, 4]), rtol=1e-5)
    plain = smooth.metrics(fixed, {}, batch)
    np.testing.assert_allclose(plain["loss"], plain["nll"])


def test_a_loss_in_chunks_equals_the_whole_one():
    batch = batch_of(task(), PAIRS)
    found = []
    for made in (task(label_smoothing=0.1), task(label_smoothing=0.1, loss_chunk=3)):
        trained = lambda p, made=made: made.metrics(Model(), p, batch, rng=jax.random.key(1))["loss"][0]  # noqa: E731
        found.append((metrics(made, batch), jax.jit(jax.value_and_grad(trained))(params_of())))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


def test_scheduled_sampling_grows_over_the_run():
    linear, sigmoid = (task(scheduled_sampling=kind, sampling_rate=0.5) for kind in ("linear", "inverse_sigmoid"))
    np.testing.assert_allclose([linear.sampling_rate_at(p) for p in (0.0, 0.5, 1.0)], [0, 0.25, 0.5])
    rates = [float(sigmoid.sampling_rate_at(p)) for p in np.linspace(0, 1, 11)]
    assert rates == sorted(rates) and rates[0] < 0.05 and rates[-1] > 0.45 and abs(rates[4] - 0.25) < 0.05
    batch, key = batch_of(linear, PAIRS), jax.random.key(1)
    assert metrics(linear, batch, key, 0.0) == metrics(task(), batch, key)
    assert metrics(linear, batch, key, 1.0)["nll"] != metrics(task(), batch, key)["nll"]
    assert metrics(linear, batch) == metrics(task(), batch)


def test_what_it_learns_ends_by_itself():
    """KNOWN_BUGS 9: after learning to copy, greedy decoding gives each source and then eos."""
    made, rng = task(), np.random.default_rng(0)
    pairs = ["".join(rng.choice(list("abc"), rng.integers(1, 4))) for _ in range(64)]
    batch = batch_of(made, [(p, p) for p in pairs])
    optimizer = optax.adam(2e-2)

    @jax.jit
    def train(params, state):
        def one(carry, _):
            params, state = carry

            def loss(p):
                total, weight = made.metrics(Model(), p, batch, rng=jax.random.key(0))["loss"]
                return total / weight

            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(one, (params, state), None, length=150)

    (params, _), losses = train(params_of(), optimizer.init(params_of()))
    assert losses[-1] < 0.05 < losses[0]
    generator = Generator.for_task(Model(), Letters(), made)
    prompts = [made.prompt({"source": p}) for p in pairs[:8]]
    found = generator.generate(params, [p["tokens"] for p in prompts], 8, GREEDY, inputs=stack([p["inputs"] for p in prompts]))
    assert [(x.text, x.reason) for [x] in found] == [(p, "eos") for p in pairs[:8]]


def test_mistakes_are_named():
    silent = types.SimpleNamespace(eos_id=None)
    with pytest.raises(UserError, match="(?s)data.tokenizer has no eos.*character with --config.data.tokenizer.kw.eos=true"):
        Task(silent, Letters(), 8)
    with pytest.raises(UserError, match="source_tokenizer"):
        Task(Letters(), silent, 8)
    Task(Letters(), silent, 8, source_eos=False)
    with pytest.raises(UserError, match='field "target", which is not there .it has source, text.'):
        task().example({"source": "a", "text": "b"})
    with pytest.raises(UserError, match="prefix_language_modeling"):
        task().forward(types.SimpleNamespace(), {}, True)
    kw = dict(
        loss_chunk=0, label_smoothing=1.0, sampling_rate=0.0, scheduled_sampling="linear", max_source_length=1, max_target_length=None
    )
    assert len(problems(kw, None)) == 3 and len(problems({**kw, "max_target_length": 9}, 8)) == 4


def test_the_extent_of_a_source_is_what_is_read_and_what_is_cut():
    task = Task(Letters(), Letters(), 8, max_source_length=4)
    assert task.extent({"source": "abcdef"}) == (7, 3) and task.extent({"source": "abc"}) == (4, 0)  # the eos counts and stays
    blank = type("Blanks", (Letters,), {"encode": lambda self, text: np.zeros(len(text), np.int32)})()
    assert Task(blank, blank, 8).extent({"source": " "})[0] == 0
    with pytest.raises(UserError, match='"source", which is not there .it has src..*A pair is {"source"'):
        task.prompt({"src": "a"})
