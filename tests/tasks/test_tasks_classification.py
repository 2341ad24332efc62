"""Classification: labels from the train split, texts cut as stated, losses equal to their definitions, filler rows without weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data import examples as example_lib
from decoder_lab.data.packing.buckets import Packing
from decoder_lab.tasks.classification import Task


class Words:
    """Every letter is a token; 0 is the end of a text."""

    vocab_size, eos_id = 27, 0

    def encode(self, text):
        return np.array([ord(c) - 96 for c in text], np.int32)


TRAIN = [dict(text="abc", label="good"), dict(text="b", label=" bad "), dict(text="cab", label="good"), dict(text="", label="odd")]


def made(items=TRAIN, length=8, **kw):
    task = Task(Words(), length, **kw)
    task.load(task.fit(items))
    return task


def batch_of(task, items, extra=2):
    """Pads by hand, with filler rows of zeros."""
    examples = [task.example(raw) for raw in items]
    batch = {}
    for name, value in examples[0].items():
        columns = [e[name] for e in examples]
        if not np.ndim(value):
            batch[name] = np.array([*columns, *[np.zeros((), value.dtype)] * extra])
        else:
            batch[name] = np.zeros((len(items) + extra, max(1, *map(len, columns))), value.dtype)
            for row, column in zip(batch[name], columns, strict=False):
                row[: len(column)] = column
    return batch


def model_of(task):
    kw = dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=6, ngrams=1)), dropout=0.5)
    model = lookup.make("model", dict(name="classifier", kw=kw), vocab_size=27, max_length=8, dtype=jnp.float32, **task.sizes())
    params = model.init(jax.random.key(0), task.dummy(), True, method=task.forward)["params"]
    return model, jax.tree.map(lambda a: a * 10, params)


def metrics(task, model, params, batch, rng=None):
    return jax.tree.map(float, jax.jit(lambda p, b: task.metrics(model, p, b, rng=rng))(params, batch))


def logits_of(task, model, params, batch):
    return np.asarray(model.apply({"params": params}, batch, True, method=task.forward), np.float64)


def test_labels_come_from_the_train_split_in_order():
    task = made()
    assert task.labels == ("bad", "good", "odd") and task.sizes() == {"num_labels": 3}
    assert task.example(TRAIN[1])["label"] == 0 and task.gold(TRAIN[1]) == ("bad",)
    assert made([dict(text="a", label=1), dict(text="a", label=0)]).labels == ("0", "1")
    with pytest.raises(UserError, match='"goood" is not known. Did you mean "good"?.*bad, good, odd'):
        task.example(dict(text="a", label="goood"))
    with pytest.raises(UserError, match="two or more labels"):
        made(TRAIN[:1])
    with pytest.raises(UserError, match='no field "label"; there are: text'):
        made([dict(text="a")])
    assert task.fingerprint() != made(TRAIN[:2]).fingerprint() != made(TRAIN[:2], keep="tail").fingerprint()


@pytest.mark.parametrize("wrong", [None, "", " ", {"x": 1}, ["good"], float("nan")])
def test_what_is_no_label_is_no_class(wrong):
    """Each of these was a class of its own, named None or {'x': 1}."""
    with pytest.raises(UserError, match='expected a label in field "label", a text or a number'):
        made([*TRAIN, dict(text="a", label=wrong)])
    with pytest.raises(UserError, match='expected a label in field "label", a text or a number'):
        made(kind="multi", items=[dict(text="a", label=["x", "y"]), dict(text="b", label=["x", wrong])])
    with pytest.raises(UserError, match='expected a label in field "label", a text or a number'):
        made().example(dict(text="a", label=wrong))


def test_an_item_without_a_label_is_counted():
    task = made()
    assert task.example(dict(text="a"))["weights"] == 0 and 'without a field "label"' in next(iter(task.counts))


def test_the_extent_of_an_item_is_what_is_read_and_what_is_cut():
    task, pair = made(length=4), made([dict(text="a", text_pair="b", label=x) for x in "xy"], length=5, pairs="separator")
    assert task.extent(dict(text="abcdefg")) == (7, 3) and task.extent(dict(text="abcd")) == (4, 0) and task.extent(dict(text=""))[0] == 0
    assert pair.extent(dict(text="abc", text_pair="def")) == (7, 2) and pair.extent(dict(text="", text_pair=""))[0] == 0
    assert pair.extent(dict(text="a", text_pair=""))[0] > 0
    with pytest.raises(UserError, match="(?s)is not there; there are: sentence, y.*--config.task.kw.text_field.*kw.fields"):
        task.example(dict(sentence="a", y="good"))


@pytest.mark.parametrize("keep, want", [("head", "abcd"), ("tail", "ghij"), ("both", "abij")])
def test_long_texts_are_cut_as_stated_and_counted(keep, want):
    task = made(length=4, keep=keep)
    np.testing.assert_array_equal(task.example(dict(text="abcdefghij", label="bad"))["tokens"], Words().encode(want))
    task.example(dict(text="abcd", label="bad"))
    assert list(task.counts.values()) == [1] and "more than 4 tokens" in next(iter(task.counts))


@pytest.mark.parametrize(
    "first, second, tokens, types",
    [
        ("ab", "cd", [1, 2, 0, 3, 4], [0, 0, 0, 1, 1]),
        ("abcdefgh", "ij", [1, 2, 3, 4, 5, 0, 9, 10], [0] * 6 + [1] * 2),
        ("ab", "cdefghij", [1, 2, 0, 3, 4, 5, 6, 7], [0] * 3 + [1] * 5),
        ("abcdefgh", "ijklmnop", [1, 2, 3, 0, 9, 10, 11, 12], [0] * 4 + [1] * 4),
    ],
)
def test_pairs_are_joined_and_the_longer_one_is_cut(first, second, tokens, types):
    items = [dict(text=first, text_pair=second, label=x) for x in "xy"]
    example = made(items, pairs="types").example(items[0])
    assert example["tokens"].tolist() == tokens and example["types"].tolist() == types and example["segments"].all()


def test_characters_are_those_of_the_words_that_are_kept():
    class Split(Words):
        def words(self, text):
            return text.split()

        def encode(self, text):
            return np.arange(len(text.split()), dtype=np.int32)

    task = Task(Split(), 2, characters=6, keep="tail")
    example = task.example(dict(text="a bcd efghijkl"))
    assert example["tokens"].tolist() == [1, 2] and example["chars"].shape == (2, 6)
    text = ["".join(map(chr, row)).rstrip("\0") for row in example["chars"]]
    assert text == ["<bcd>", "<efkl>"]
    with pytest.raises(UserError, match="ids are words"):
        Task(Words(), 2, characters=6).example(dict(text="a"))


def test_one_label_is_cross_entropy_and_filler_rows_weigh_nothing():
    task = made()
    model, params = model_of(task)
    batch = batch_of(task, TRAIN)
    logits = logits_of(task, model, params, batch)[:4]
    nll = [np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, [1, 0, 1, 2], strict=True)]
    found = metrics(task, model, params, batch)
    assert found["loss"] == (pytest.approx(sum(nll), rel=1e-5), 4.0)
    assert found["accuracy"] == ((logits.argmax(-1) == [1, 0, 1, 2]).sum(), 4.0)
    # batch of one equals many (KNOWN_BUGS 3, 21)
    single = [metrics(task, model, params, batch_of(task, [raw], extra=0))["loss"][0] for raw in TRAIN]
    np.testing.assert_allclose(single, nll, rtol=1e-4)


def test_smoothing_weights_and_dropout_are_for_training_only():
    """KNOWN_BUGS 28; and the balanced weights of two good, one bad, one odd are 2/3, 4/3, 4/3."""
    plain, full = made(), made(label_smoothing=0.2, class_weights="balanced")
    model, params = model_of(plain)
    batch, key = batch_of(plain, TRAIN), jax.random.key(1)
    assert metrics(plain, model, params, batch) == metrics(full, model, params, batch)
    assert metrics(plain, model, params, batch, key)["loss"] != metrics(plain, model, params, batch)["loss"]
    assert metrics(full, model, params, batch, key)["loss"][1] == pytest.approx(2 / 3 * 2 + 4 / 3 * 2)
    still = model.clone(dropout=0.0)
    logits = logits_of(plain, still, params, batch)[:4]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    gold = np.array([1, 0, 1, 2])
    smoothed = -0.8 * log_p[np.arange(4), gold] - 0.2 * log_p.mean(-1)
    want = smoothed @ [2 / 3, 4 / 3, 2 / 3, 4 / 3]
    assert metrics(full, still, params, batch, key)["loss"][0] == pytest.approx(want, rel=1e-4)


def test_several_labels_are_binary_cross_entropy():
    items = [dict(text="ab", label=["x", "z"]), dict(text="c", label=[]), dict(text="d", label=["y"])]
    task = made(items, kind="multi")
    model, params = model_of(task)
    batch = batch_of(task, items)
    logits, gold = logits_of(task, model, params, batch)[:3], np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    p = 1 / (1 + np.exp(-logits))
    want = -(gold * np.log(p) + (1 - gold) * np.log(1 - p)).mean(-1).sum()
    found = metrics(task, model, params, batch)
    assert found["loss"] == (pytest.approx(want, rel=1e-4), 3.0)
    assert found["accuracy"] == (((p >= 0.5) == gold).all(-1).sum(), 3.0)
    decoded = task.decode(np.asarray(task.predict(model, params, batch)), batch)
    assert [set(row["labels"]) for row in decoded[:3]] == [{n for n, x in zip("xyz", row, strict=True) if x >= 0.5} for row in p]
    with pytest.raises(UserError, match="expects a list of labels"):
        made([dict(text="a", label="x")], kind="multi")


KINDS = {
    "single": (TRAIN, dict(class_weights="balanced", label_smoothing=0.1)),
    "multi": ([dict(text="ab", label=["x", "z"]), dict(text="c", label=[]), dict(text="d", label=["y"])], {}),
    "score": ([dict(text="ab", label=100.0), dict(text="c", label="300"), dict(text="d", label=200)], {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_consistency_is_the_distance_of_two_readings(kind):
    """R-Drop, eq. 2 to 4: the mean loss of both readings, and their divergence in both directions; nothing of it in evaluation."""
    items, kw = KINDS[kind]
    plain, far = made(items, kind=kind, **kw), made(items, kind=kind, consistency=3.0, **kw)
    model, params = model_of(plain)
    batch, key = batch_of(plain, items), jax.random.key(1)
    assert metrics(plain, model, params, batch) == metrics(far, model, params, batch)
    still = model.clone(dropout=0.0)  # two equal readings
    for name, (total, weight) in metrics(far, still, params, batch, key).items():
        assert (total, weight) == (pytest.approx(metrics(plain, still, params, batch, key)[name][0], rel=1e-5), pytest.approx(weight))
    twice = {name: np.repeat(x, 2, axis=0) for name, x in batch.items()}
    logits = np.asarray(model.apply({"params": params}, twice, False, method=far.forward, rngs={"dropout": key}), np.float64)
    n = len(items)
    one, other = logits[0 : 2 * n : 2], logits[1 : 2 * n : 2]
    assert np.abs(one - other).max() > 0.1
    if kind == "score":
        apart = np.square(np.std([100, 200, 300]) * (one - other))[:, 0] / 2
    elif kind == "multi":
        p, q = 1 / (1 + np.exp(-one)), 1 / (1 + np.exp(-other))
        apart = sum(a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b)) for a, b in ((p, q), (q, p))).mean(-1) / 2
    else:
        p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (one, other))
        apart = np.array([2 / 3, 4 / 3, 2 / 3, 4 / 3]) * sum(a * np.log(a / b) for a, b in ((p, q), (q, p))).sum(-1) / 2
    both = metrics(plain, model, params, twice, key)  # the losses of the two readings, of twice as many rows
    total, weight = metrics(far, model, params, batch, key)["loss"]
    assert weight == pytest.approx(both["loss"][1] / 2)
    assert total == pytest.approx(both["loss"][0] / 2 + 3.0 * apart.sum(), rel=1e-4)


def test_labels_take_no_room_of_the_text():
    """Nine labels at a length of eight: sequence_length is of texts, and a batch has one place for each label."""
    names = [str(i) for i in range(9)]
    items = [dict(text="abc", label=names), dict(text="d", label=names[:1])] * 3
    task = made(items, kind="multi", length=8)
    rows = Packing(example_lib.in_memory(task.example(raw) for raw in items), length=8, pad_to=1).plan(2)
    batches = [rows.take(i, 0, 0) for i in range(rows.num_batches)]
    assert {batch["label_set"].shape[1] for batch in batches} == {9} and {batch["tokens"].shape[1] for batch in batches} == {1, 3}
    assert {int(n) for batch in batches for n in batch["label_set"].sum(axis=1)} <= {0, 1, 9}


def test_scores_are_squared_errors_in_their_own_unit():
    items = [dict(text="ab", label=100.0), dict(text="c", label="300"), dict(text="d", label=200)]
    task = made(items, kind="score")
    model, params = model_of(task)
    batch = batch_of(task, items)
    scores = 200 + np.std([100, 200, 300]) * logits_of(task, model, params, batch)[:3, 0]
    found = metrics(task, model, params, batch)
    assert found["loss"] == (pytest.approx(np.square(scores - [100, 300, 200]).sum(), rel=1e-4), 3.0)
    assert [row["score"] for row in task.decode(task.predict(model, params, batch), batch)][:3] == pytest.approx(scores, rel=1e-4)
    assert task.summary({"loss": 9.0}, None) == {"loss": 9.0, "rmse": 3.0}
    with pytest.raises(UserError, match="expects a number"):
        task.example(dict(text="a", label="high"))


def test_predictions_name_the_most_probable_label():
    task = made()
    model, params = model_of(task)
    batch = batch_of(task, [{"text": "abc"}, {"text": "b"}])  # without labels, as from a user
    assert metrics(task, model, params, batch)["loss"] == (0.0, 0.0)  # and count for nothing
    logits = logits_of(task, model, params, batch)[:2]
    decoded = task.decode(jax.device_get(task.predict(model, params, batch)), batch)[:2]
    assert [row["label"] for row in decoded] == [task.labels[i] for i in logits.argmax(-1)]
    for row in decoded:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["probability"] == pytest.approx(max(row["probabilities"].values()), abs=1e-5)


def test_a_row_without_a_token_has_finite_gradients():
    """KNOWN_BUGS 7, 8."""
    task = made()
    model, params = model_of(task)
    batch = batch_of(task, [TRAIN[3]])
    gradients = jax.grad(lambda p: task.metrics(model, p, batch)["loss"][0])(params)
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(gradients))


def test_what_does_not_fit_together_is_said():
    complete = {name: field.default for name, field in lookup.fields("task", "classification").items()}
    assert lookup.problems("task", "classification", complete) == []
    assert lookup.problems("task", "classification", complete | dict(consistency=-1.0)) == ["consistency must be at least 0, got -1.0"]
    found = lookup.problems(
        "task", "classification", complete | dict(kind="score", label_smoothing=0.1, class_weights="balanced", threshold=1.0)
    )
    assert len(found) == 3
