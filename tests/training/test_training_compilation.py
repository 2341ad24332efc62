"""What is compiled in a run: the step once, and nothing any more once the first numbers have been read."""

import jax
import pytest
from jax import monitoring

from decoder_lab.core import config as config_lib
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop, plan

STEPS = 6
COMPILED = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # before the persistent cache is asked, hence also where that has the program


@pytest.fixture
def compiled():
    """The names of the functions that are compiled while the test runs, in order."""
    names = []

    def listen(event, duration, **about):
        if event == COMPILED:
            names.append(about["fun_name"])

    monitoring.register_event_duration_secs_listener(listen)
    yield names
    monitoring.unregister_event_duration_listener(listen)


class Watched(experiments.Experiment):
    """Notes how much had been compiled before each step."""

    def train_step(self, *arguments):
        step = super().train_step(*arguments)

        def watched(state, batch):
            self.before.append(len(self.compiled))
            return step(state, batch)

        return watched


def train(folder, compiled, total_steps, **changes):
    """Trains a tiny model and returns how much had been compiled before each step."""
    (folder / "train.txt").write_text("never odd or even " * 200)
    delta = dict(
        total_steps=total_steps,
        batch_size=16,
        sequence_length=16,
        data=dict(source=dict(name="text", kw=dict(train=str(folder / "train.txt"), validation=str(folder / "train.txt")))),
        model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16, dropout=0.1)),
        evaluators={},
        checkpoint=dict(every="0", metric="", keep_best=0),
        log=dict(every="1", writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    experiment = Watched(config_lib.resolve({**delta, **changes}), folder / "run", report=lambda line: None)
    experiment.compiled, experiment.before = compiled, []
    assert loop.train(experiment, folder / "run") == 0
    return experiment.before


@pytest.mark.parametrize("changes", [{}, dict(accumulate=2, ema=0.9), dict(optimizer=dict(name="schedule_free_adamw", kw={}))])
def test_the_step_is_compiled_once(tmp_path, compiled, changes):
    """A state that comes back with another layout, dtype or weak type than it went in with compiles the step again at step 2."""
    before = train(tmp_path, compiled, STEPS, **changes)
    assert sum("train_step" in name for name in compiled) == 1, compiled
    assert len(before) == STEPS and len(set(before[2:])) == 1, compiled[before[2] : before[-1]]


def test_a_resumed_run_compiles_its_step_once(tmp_path, compiled):
    train(tmp_path, compiled, STEPS, checkpoint=dict(every="3", metric="", keep_best=0))
    last = tmp_path / "run" / "checkpoints" / str(STEPS)
    last.rename(tmp_path / "gone")
    compiled.clear()
    before = train(tmp_path, compiled, STEPS, checkpoint=dict(every="3", metric="", keep_best=0))
    assert len(before) == 3 and sum("train_step" in name for name in compiled) == 1, compiled


@pytest.mark.parametrize("same", [True, False])
def test_rate_schedule_and_length_of_a_run_are_in_no_program_of_a_step(tmp_path, same):
    """So the runs of a sweep over them find the step in the compilation cache."""
    changes = ("lr=5e-3", "total_steps=700", "schedule.name=linear", "seed=3") if same else ("weight_decay=0.3",)
    delta = dict(batch_size=2, sequence_length=8, model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16)))

    def program(*overrides):
        planned = plan.Planned(config_lib.resolve(delta, overrides), tmp_path, print, jax.devices()[:1], 32)
        return planned.jitted_step().lower(planned.state_shapes(), planned.batch_shapes()[0]).as_text()

    assert (program() == program(*changes)) is same
