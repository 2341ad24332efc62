"""Preference tuning and reward models: pairs as rows, the run's beginning as reference, and that the chosen answer comes to win."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.data import conversation, preferences
from decoder_lab.data.tokenizer.byte import Tokenizer
from decoder_lab.models.decoder_only import Model
from decoder_lab.parallel import mesh as meshes
from decoder_lab.tasks import preference, reward
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop, reference
from decoder_lab.training import plan as plans

EOS = 256


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Most of the time goes into compiling; several devices have their own tests."""
    make_mesh = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda devices=None, **kw: make_mesh(jax.devices()[:1], **kw))


PAIR = {"source": "3 or 4?", "chosen": "four", "rejected": "3"}


def padded(example, length):
    return {k: np.pad(v, [(0, length - len(v))] + [(0, 0)] * (v.ndim - 1))[None] if v.ndim else v[None] for k, v in example.items()}


def said(example, side):
    return example["labels"][:, side][example["weights"][:, side] > 0].tolist()


def test_both_sides_are_learned_from_their_answers_only():
    """KNOWN_BUGS 8, 9, 25: the prompt has no weight, each answer has its end, however long the other is."""
    task = preference.Task(Tokenizer(), 64)
    example = task.example(PAIR)
    assert said(example, 0) == [*b"four", EOS] and said(example, 1) == [*b"3", EOS]
    assert (example["segments"].sum(axis=0) == [len(example["tokens"]), len(example["tokens"]) - 3]).all()
    listed = {side: [dict(role="user", content="3 or 4?"), dict(role="assistant", content=PAIR[side])] for side in ("chosen", "rejected")}
    assert all((task.example(listed)[name] == x).all() for name, x in example.items())
    length = len(example["tokens"])
    cut = preference.Task(Tokenizer(), length - 1)
    assert said(cut.example(PAIR), 0) == [*b"four"] and list(cut.counts.values()) == [1]
    assert preference.Task(Tokenizer(), length - 6).example(PAIR) == []
    assert preference.Task(Tokenizer(), length - 1, too_long="drop").example(PAIR) == []
    nothing = types.SimpleNamespace(encode=lambda messages: conversation.Encoded(np.arange(4), np.zeros(4, int), unlearned=1))
    with pytest.raises(UserError, match="cannot be told from its prompt"):
        preferences.encoded(nothing, PAIR)
    with pytest.raises(UserError, match='no text "rejected"'):
        task.example({"source": "a", "chosen": "b"})
    wrong = dict(beta=0.0, label_smoothing=0.1, loss="orpo", target_margin=1.0)
    assert len(preference.problems(wrong)) == 3


@pytest.fixture(scope="module")
def made():
    task = preference.Task(Tokenizer(), 64)
    model = Model(257, 64, jnp.float32, num_layers=1, num_heads=2, width=16, init_stddev=0.3)
    return task, model, jax.jit(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))()["params"]


def test_log_probabilities_are_those_of_the_model_and_padding_changes_nothing(made):
    """KNOWN_BUGS 25, against a loop over tokens; filler rows weigh nothing."""
    task, model, params = made
    example = task.example(PAIR)
    compute = jax.jit(lambda batch: task.log_probabilities(model, params, batch))
    apply = jax.jit(lambda params, tokens_BT: model.apply({"params": params}, tokens_BT)[0])
    log_12, count_12 = compute(padded(example, 40))
    for side in (0, 1):
        tokens, weights = example["tokens"][:, side], example["weights"][:, side]
        logits = np.asarray(apply(params, tokens[None]))[0]  # causal: what is padded behind changes nothing
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        wanted = sum(log_p[t, example["labels"][t, side]] for t in np.flatnonzero(weights))
        np.testing.assert_allclose(log_12[0, side], wanted, rtol=1e-4)
    assert count_12.tolist() == [[5, 2]]
    batch = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in padded(example, 40).items()}
    batch["reference"] = np.concatenate([log_12, np.zeros_like(log_12)])
    found = jax.jit(lambda batch: task.metrics(model, params, batch))(batch)
    np.testing.assert_allclose(found["loss"], [math.log(2), 1.0], rtol=1e-5)
    np.testing.assert_allclose(found["margin"], [0.0, 1.0], atol=1e-5)


# log-probabilities of two pairs in units of -log 2: of the chosen answer's tokens, and of the rejected one's
TWO_PAIRS = (((1, 2), (1,)), ((2,), (1, 1, 2)))
REFERENCE = -math.log(2) * np.array([[2, 2], [2, 3]], np.float32)
LN2, ROOT_E = math.log(2), math.exp(0.5)
BY_HAND = {
    # sums are -3 and -1, and -2 and -4, log-ratios to the reference -1 and 1, and 0 and -1: margins of -2 and 1
    "dpo": (dict(beta=0.5), [math.log(1 + 2), math.log(1 + 2**-0.5)]),
    "ipo": (dict(beta=0.5), [(-2 * LN2 - 1) ** 2, (LN2 - 1) ** 2]),
    # means are -3/2 and -1, and -2 and -4/3
    "simpo": (dict(beta=2.0, target_margin=0.5), [math.log(1 + 2 * ROOT_E), math.log(1 + 2 ** (4 / 3) * ROOT_E)]),
    # odds are p / (1 - p): that of 1/2 is 1, that of 1/4 is 1/3
    "orpo": (
        dict(beta=0.3),
        [1.5 * LN2 + 0.3 * math.log(1 + (2**1.5 - 1)), 2 * LN2 + 0.3 * math.log(1 + 3 / (2 ** (4 / 3) - 1))],
    ),
}


class Says:
    """A model whose parameters are the logits that it gives."""

    def apply(self, variables, *given, **how):
        return variables["params"]


@pytest.mark.parametrize("loss", BY_HAND)
def test_every_loss_of_two_pairs_of_unequal_lengths_by_hand(loss):
    """KNOWN_BUGS 25: DPO and IPO are of sums over an answer's tokens, SimPO and ORPO of means; the other side's length does not count."""
    kw, wanted = BY_HAND[loss]
    task = preference.Task(Tokenizer(), 64, loss=loss, **kw)
    logits, weights = np.zeros((4, 3, 2), np.float32), np.zeros((2, 3, 2), np.float32)
    for pair, sides in enumerate(TWO_PAIRS):
        for side, answer in enumerate(sides):
            for t, halvings in enumerate(answer):
                logits[2 * pair + side, t] = np.log([0.5**halvings, 1 - 0.5**halvings])
                weights[pair, t, side] = 1
    batch = dict(labels=np.zeros((2, 3, 2), np.int32), weights=weights, **({"reference": REFERENCE} if task.has_reference else {}))
    found = jax.jit(lambda logits: task.metrics(Says(), logits, batch))(logits)
    np.testing.assert_allclose(found["loss"], [sum(wanted), 2], rtol=1e-5)
    np.testing.assert_allclose(found["chosen_logprob"], [-5 * LN2, 2], rtol=1e-5)
    assert found["accuracy"][0] == {"dpo": 1, "ipo": 1, "simpo": 0, "orpo": 0}[loss]


def run(tmp_path, task, model, init="", steps=6, workdir="run", **changes):
    items = [dict(source=q, chosen="yes" * (i % 3 + 1), rejected="no") for i, q in enumerate("abcdefgh")] * 4
    for split in ("train", "val") if not (tmp_path / "val.jsonl").exists() else ():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    files = dict(train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "val.jsonl"), fields={})
    delta = dict(
        total_steps=steps,
        batch_size=8,
        sequence_length=48,
        lr=3e-3,
        data=dict(source=dict(name="jsonl", kw=files), packing=dict(name="buckets", kw=dict(by="examples", num_buckets=1))),
        task=task,
        model=model,
        evaluators=dict(val=dict(name="mean", every="3", kw={})),
        checkpoint=dict(every="3"),
        log=dict(every="1", writers=dict(jsonl=dict(name="jsonl", kw={}))),
        init_from=dict(workdir=init),
    )
    said = []
    experiment = experiments.Experiment(config_lib.resolve({**delta, **changes}), tmp_path / workdir, report=said.append)
    assert loop.train(experiment, tmp_path / workdir) == 0
    lines = [json.loads(line) for line in (tmp_path / workdir / "metrics.jsonl").read_text().splitlines()]
    return experiment, lines, said


def test_the_reference_is_the_beginning_and_is_worked_out_once(tmp_path):
    """At step 0 the loss is log 2 and the margin 0; afterwards the chosen answers win. A resumed run reads the numbers it began with."""
    task = dict(name="preference", kw=dict(beta=0.5))
    model = dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16, position="rotary"))
    experiment, lines, said = run(tmp_path, task, model)
    values = {line["step"]: line for line in lines if "val/loss" in line}
    assert abs(values[0]["val/loss"] - math.log(2)) < 1e-5 and abs(values[0]["val/margin"]) < 1e-4
    assert values[6]["val/loss"] < values[0]["val/loss"] and values[6]["val/accuracy"] == 1.0
    assert sum("working out the log-probabilities" in line for line in said) == 2
    kept = experiment.rows("train").examples.shards[0].features["reference"].values
    _, _, said = run(tmp_path, task, model, steps=7)
    assert any("going on from" in line for line in said) and not any("working out" in line for line in said)
    again = experiments.Experiment(experiment.config, tmp_path / "run", report=lambda line: None)
    assert np.array_equal(again.rows("train").examples.shards[0].features["reference"].values, kept)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "gone")
    planned = plans.Planned(experiment.config, tmp_path / "planned", print, jax.devices()[:1])  # shapes suffice: nothing is worked out
    assert planned.batch_shapes()[0]["reference"].shape == (8, 2) and not (tmp_path / "planned" / "reference-train.npz").exists()
    anew = []  # a run that has not begun: what lies there may be of another model
    experiments.Experiment(experiment.config, tmp_path / "run", report=anew.append).rows("validation")
    assert sum("working out" in line for line in anew) == 1
    changed = {**dict(experiment.config.init_from), "workdir": "elsewhere"}
    with experiment.config.unlocked():
        experiment.config.init_from = changed
    assert reference._stored(tmp_path / "run" / "reference-train.npz", reference._about(experiment, experiment.rows("train"))) is None


def test_the_reference_of_an_adapter_that_goes_on_has_it(tmp_path):
    """Its base alone was never what the run began with: the loss at step 0 would not be log 2."""
    model = dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16, position="rotary"))
    adapt = dict(name="prefix", kw=dict(num_tokens=3, stddev=1.0))
    before, *_ = run(tmp_path, dict(name="preference", kw=dict(loss="simpo")), model, workdir="before", steps=3, adapt=adapt)
    (tmp_path / "before" / "config.json").write_text(config_lib.to_json(before.config))
    task = dict(name="preference", kw=dict(beta=0.5))
    _, lines, _ = run(tmp_path, task, model, workdir="after", steps=1, adapt=adapt, init=str(tmp_path / "before"))
    assert abs(lines[0]["val/loss"] - math.log(2)) < 1e-5 and abs(lines[0]["val/margin"]) < 1e-4


@pytest.mark.parametrize(
    "model",
    [
        dict(name="decoder_classifier", kw=dict(decoder=dict(name="transformer", kw=dict(num_layers=1, num_heads=2, width=16)))),
        dict(name="classifier", kw=dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=16)))),
    ],
    ids=lambda model: model["name"],
)
def test_a_reward_model_learns_which_answer_wins(tmp_path, model):
    experiment, lines, _ = run(tmp_path, dict(name="reward", kw={}), model, steps=9, lr=1e-2)
    assert [line["val/accuracy"] for line in lines if "val/accuracy" in line][-1] == 1.0
    task = experiment.task
    single, pair = task.example({"source": "a", "target": "yes"}), task.example({"source": "a", "chosen": "yes", "rejected": "no"})
    params = experiment.init_params()
    batch = {k: np.concatenate([padded(x, 40)[k] for x in (single, pair)]) for k in single}
    first, second = task.decode(jax.jit(lambda b: task.predict(experiment.model, params, b))(batch), batch)
    assert first["score"] == second["chosen"] != second["rejected"]
    assert len(reward.Task(Tokenizer(), 8).example(pair_of("yes"))["tokens"]) == 8
    assert reward.Task(Tokenizer(), 8).example(pair_of("yes"))["tokens"][-1].tolist() == [EOS, EOS]


def pair_of(answer):
    return {"source": "a", "chosen": answer, "rejected": "n" * len(answer)}
