"""Distillation: the loss of a loop over NumPy, nothing to learn from itself, and a run that learns from another run and resumes."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup, tree
from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer.byte import Tokenizer
from decoder_lab.models import decoder_only
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel import topology
from decoder_lab.tasks.distillation import Task, problems
from decoder_lab.training import auxiliary, loop, resume
from decoder_lab.training import experiment as experiments
from decoder_lab.training import plan as plans

BATCH = dict(
    tokens=np.array([[1, 2, 3, 4], [5, 6, 7, 0]], np.int32),
    segments=np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32),
    labels=np.array([[2, 3, 4, 9], [6, 7, 9, 0]], np.int32),
    weights=np.array([[0, 1, 1, 1], [1, 1, 1, 0]], np.float32),
)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Most of the time goes into compiling; several devices have their own tests."""
    make_mesh = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda devices=None, **kw: make_mesh(jax.devices()[:1], **kw))


def language_model(width):
    return decoder_only.Model(16, 8, jnp.float32, num_layers=1, num_heads=2, width=width, init_stddev=0.3)


def made(teacher, student, batch=BATCH, **kw):
    task = Task(Tokenizer(), Tokenizer(), 8, teacher, workdir="runs/teacher", **kw)
    if hasattr(task, "labels"):
        task.load(dict(labels=["a", "b", "c"], counts=[1, 1, 1]))
    init = jax.jit(lambda key, model: model.init(key, batch, True, method=task.forward)["params"], static_argnums=1)
    params = init(jax.random.key(0), student)
    teachers = jax.jit(lambda key: teacher.init(key, batch, True, method=task.inside.forward)["params"])(jax.random.key(1))
    return task, params, teachers


def measured(task, student, params, teachers, batch=BATCH, rng=None):
    def loss(params, teachers):
        found = task.metrics(student, {**params, "teacher": teachers}, batch, rng=rng)
        return found["loss"][0], found

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, teachers)


def test_a_teacher_that_is_the_student_teaches_nothing():
    model = language_model(8)
    task, params, _ = made(model, model, alpha=1.0)
    gradients, found = measured(task, model, params, params)
    assert abs(float(found["kl"][0])) < 1e-5 and max(np.abs(g).max() for g in jax.tree.leaves(gradients[0])) < 1e-5
    half, params, _ = made(model, model, alpha=0.5)
    gradients, found = measured(half, model, params, params)
    np.testing.assert_allclose(found["loss"][0], found["task_loss"][0] / 2, rtol=1e-5)
    assert found["loss"][1] == found["task_loss"][1] == BATCH["weights"].sum()


def test_the_loss_is_that_of_a_loop_and_the_teacher_is_not_differentiated():
    student, teacher = language_model(8), language_model(16)
    task, params, teachers = made(teacher, student, alpha=0.25, temperature=3.0, hidden_weight=0.1)
    assert params["distillation_projection"].shape == (8, 16)
    gradients, found = measured(task, student, params, teachers)
    assert not any(g.any() for g in jax.tree.leaves(gradients[1])) and all(g.any() for g in jax.tree.leaves(gradients[0]))
    forward = lambda model, p: np.asarray(jax.jit(lambda p: model.apply({"params": p}, BATCH, True, method=task.inside.forward))(p))  # noqa: E731
    logits, said = forward(student, params), forward(teacher, teachers)
    softmax = lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)  # noqa: E731
    p, q = softmax(said / 3.0), softmax(logits / 3.0)
    kl = ((p * np.log(p / q)).sum(axis=-1) * BATCH["weights"]).sum()
    np.testing.assert_allclose(found["kl"][0], kl, rtol=1e-4)
    wanted = 0.75 * found["task_loss"][0] + 0.25 * 9 * kl + 0.1 * found["hidden"][0]
    np.testing.assert_allclose(found["loss"][0], wanted, rtol=1e-4)
    assert found["hidden"][0] > 0 and found["hidden"][1] == BATCH["weights"].sum()


def test_training_brings_the_hidden_states_to_the_teachers():
    """Beside the task's own loss alone (alpha 0), and only where they have a weight."""
    student, teacher = language_model(8), language_model(16)
    task, params, teachers = made(teacher, student, alpha=0.0, hidden_weight=3.0)
    deaf = Task(Tokenizer(), Tokenizer(), 8, teacher, workdir="runs/teacher", alpha=0.0, hidden_weight=1e-6)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def distances(params, teachers):
        def step(carry, _, task):
            params, memory = carry
            (_, found), grads = jax.value_and_grad(lambda p: _loss(task, student, p, teachers), has_aux=True)(params)
            updates, memory = optimizer.update(grads, memory)
            return (optax.apply_updates(params, updates), memory), found["hidden"][0]

        begin = params, optimizer.init(params)
        return [jax.lax.scan(functools.partial(step, task=each), begin, length=60)[1] for each in (task, deaf)]

    with_weight, without = distances(params, teachers)
    assert with_weight[0] == without[0] and with_weight[-1] < 0.3 * with_weight[0] and with_weight[-1] < 0.5 * without[-1]


def _loss(task, student, params, teachers):
    found = task.metrics(student, {**params, "teacher": teachers}, BATCH)
    return found["loss"][0], found


def test_classification_and_what_does_not_fit():
    bag = dict(name="bag_of_embeddings", kw=dict(embedding_dim=4))
    model = functools.partial(lookup.make, "model", dict(name="classifier", kw=dict(encoder=bag)))
    student, teacher, other = (model(vocab_size=16, num_labels=n, max_length=8, dtype=jnp.float32) for n in (3, 3, 4))
    batch = dict(tokens=BATCH["tokens"], segments=BATCH["segments"], label=np.array([0, 2], np.int32), weights=np.ones(2, np.float32))
    task, params, teachers = made(teacher, student, batch, task=dict(name="classification", kw={}), hidden_weight=1.0)
    _, found = measured(task, student, params, teachers, batch, rng=jax.random.key(3))
    assert found["kl"][1] == 2 and found["hidden"][1] == 2 and np.isfinite(found["loss"][0])
    apart = [measured(task, student, params, teachers, jax.tree.map(lambda x: x[i : i + 1], batch))[1] for i in range(2)]  # noqa: B023
    whole = measured(task, student, params, teachers, batch)[1]
    for name in ("loss", "hidden", "kl"):  # KNOWN_BUGS 1: micro-batches of texts of unequal length add up to the batch
        np.testing.assert_allclose(np.sum([np.asarray(x[name]) for x in apart], axis=0), np.asarray(whole[name]), rtol=1e-5, atol=1e-9)
    assert {"loss", "accuracy", "kl"} <= task.summary({k: float(v[0]) for k, v in found.items()}, None).keys()
    task, params, teachers = made(other, student, batch, task=dict(name="classification", kw={}))
    with pytest.raises(UserError, match="same vocabulary or labels"):
        measured(task, student, params, teachers, batch)
    kw = dict(workdir="", alpha=2.0, temperature=0.0, hidden_weight=-1.0, task=dict(name="language_modeling", kw=dict(loss_chunk=8)))
    assert len(problems(kw)) == 5


@pytest.mark.parametrize("hidden_weight", [0.0, 0.1])
def test_a_student_with_experts_has_their_losses_and_its_teacher_has_none(hidden_weight):
    kw = dict(num_layers=1, num_heads=2, width=8, num_experts=2)
    model, teacher = (auxiliary.of_model(decoder_only.Model(16, 8, jnp.float32, **kw), dict(name="decoder_only", kw=kw)) for _ in range(2))
    task, params, teachers = made(teacher, model.model, hidden_weight=hidden_weight)

    def heard(params):
        with auxiliary.collected(model) as sown:
            metrics = task.metrics(model, params, BATCH)
        return auxiliary.added(metrics, sown)

    found = jax.jit(heard)({**params, "teacher": teachers})
    assert found["balance"][1] == found["auxiliary"][1] == (BATCH["segments"] != 0).sum(), "tokens of one layer of one model"
    assert ("hidden" in found) == bool(hidden_weight)


def run(folder, name, task, width=8, steps=4, **changes):
    (folder / "text.txt").write_text("".join(f"{n} green bottles\n\n" for n in range(60)))
    delta = dict(
        total_steps=steps,
        batch_size=8,
        sequence_length=16,
        data=dict(source=dict(name="text", kw=dict(path=str(folder / "text.txt"), document_separator="\n\n"))),
        task=task,
        model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=width)),
        evaluators=dict(val=dict(name="mean", every="2", kw={})),
        checkpoint=dict(every="2"),
        log=dict(every="1", writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    said = []
    experiment = experiments.Experiment(config_lib.resolve({**delta, **changes}), folder / name, report=said.append)
    (folder / name).mkdir(exist_ok=True)
    assert (
        loop.train(
            experiment, folder / name, on_start=lambda: (folder / name / "config.json").write_text(config_lib.to_json(experiment.config))
        )
        == 0
    )
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return experiment, lines, said


def test_a_run_learns_from_another_and_keeps_only_its_own(tmp_path):
    run(tmp_path, "teacher", dict(name="language_modeling", kw={}), width=16)
    kw = dict(workdir=str(tmp_path / "teacher"), hidden_weight=0.5)
    experiment, lines, said = run(tmp_path, "student", dict(name="distillation", kw=kw))
    assert any("the teacher: step" in line for line in said)
    assert any("val/kl" in line and "val/perplexity" in line for line in lines)
    assert [line["step"] for line in lines if "val/hidden" in line] == [0, 2, 4], "hidden_weight of the config is in force"
    saver = resume.make_saver(experiment.config, tmp_path / "student", print)
    params, _, _ = saver.restore_params("latest")
    assert not any(path.startswith("teacher") for path in tree.flatten(params["params"]))
    state, meta, step = resume.restore(experiment, saver, "latest")
    assert step == 4 and "teacher" in state.frozen
    theirs = resume.all_params(experiment.teacher, "best")[0]
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state.frozen["teacher"]), jax.tree.leaves(theirs), strict=True))
    target = topology.Target(jax.devices()[:1], "cpu", None, None)
    plan, _ = plans.make(plans.Planned(experiment.config, tmp_path / "student", print, target.devices), target)
    assert plan.parts["frozen"] == tree.num_bytes(theirs) and plan.fits
    found = resume.inference_params(experiment, "latest")[0]  # the student writes without its teacher
    assert experiment.model.apply({"params": found}, np.ones((1, 4), np.int32))[0].shape == (1, 4, 257)
    taught = meta["teacher"]
    of_teacher = tmp_path / "teacher" / "checkpoints"
    shutil.rmtree(of_teacher)
    resume.Saver(of_teacher).save(taught["checkpoint"], {"params": jax.tree.map(lambda x: x + 0.1, theirs)}, meta={}, wait=True)
    with pytest.raises(UserError, match=f"fingerprint was {taught['fingerprint']} and is .* Bring it back"):
        resume.restore(experiment, saver, "latest")
    other = dict(experiment.config.data.to_dict(), tokenizer=dict(name="character", kw={}))
    with pytest.raises(UserError, match="the tokenizer of .* is not this run's"):
        run(tmp_path, "other", dict(name="distillation", kw=kw), data=other)
