"""Schedules: every file of the folder, and tables of (step, lr) for those with a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup
from decoder_lab.core.durations import Clockwork
from decoder_lab.core.errors import UserError
from decoder_lab.optim import optimizer

PEAK = 2e-3
NAMES = lookup.names("schedule")
WITH_WARMUP = [name for name in NAMES if "warmup" in lookup.fields("schedule", name)]
NO_PEAK = ("range_test",)  # sweeps past the config's lr
CHAIN = dict(
    parts=dict(
        rise=dict(name="linear", kw=dict(start=0.0, end=1.0)),
        hold=dict(name="constant", kw={}),
        cool=dict(name="cosine", kw=dict(floor=0.1)),
    ),
    order=("rise", "hold", "cool"),
    durations=("10%", "40"),
)
NEEDED = {"chain": CHAIN}


def build(name, total_steps=100, peak=PEAK, **kw):
    steps = Clockwork(total_steps, batch_size=4, sequence_length=8, examples_per_epoch=lambda: 80).steps  # 20 steps an epoch
    return lookup.find("schedule", name)(peak=peak, total_steps=total_steps, steps=steps, **{**NEEDED.get(name, {}), **kw})


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_is_finite_and_not_negative(name):
    lr = np.asarray(build(name)(np.arange(0, 130)))
    assert lr.dtype == np.float32 and lr.shape == (130,)
    assert np.isfinite(lr).all() and (lr >= 0).all()
    assert (lr[100:] == lr[100]).all(), "after the last step the learning rate stays"


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_reaches_its_peak_and_never_passes_it(name):
    lr = np.asarray(build(name)(np.arange(0, 100)))
    if name not in NO_PEAK:
        np.testing.assert_allclose(lr.max(), PEAK, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_traced_equals_eager_and_any_integer_will_do(name):
    lr_fn = build(name)
    traced = jax.jit(lr_fn)
    for step in (0, 1, 37, 99, 100, 101):
        np.testing.assert_allclose(traced(jnp.int32(step)), lr_fn(step), rtol=1e-5, atol=1e-12)
        assert lr_fn(np.int64(step)) == lr_fn(step)
        np.testing.assert_allclose(lr_fn(np.arange(200))[step], lr_fn(step), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "chain"])
@pytest.mark.parametrize("total_steps", [0, 1, 2, 3])
def test_the_shortest_runs(name, total_steps):
    """KNOWN_BUGS 18: a total of 0 must not divide by it, and a warm-up of some percent must fit into one step."""
    kw = dict(warmup="5%") if name in WITH_WARMUP else {}
    lr = np.asarray(build(name, total_steps, **kw)(np.arange(5)))
    assert np.isfinite(lr).all() and (lr >= 0).all()


@pytest.mark.parametrize("name", WITH_WARMUP)
@pytest.mark.parametrize("warmup", ["100", "120 steps", "100%", "5 epochs"])
def test_a_warm_up_as_long_as_the_run_is_an_error(name, warmup):
    """KNOWN_BUGS 18."""
    with pytest.raises(UserError, match="warm-up"):
        build(name, warmup=warmup)


@pytest.mark.parametrize("name", WITH_WARMUP)
def test_all_share_one_warm_up(name):
    """KNOWN_BUGS 18: it begins at 0 (one_cycle: at its start), is straight, and ends at the peak at step W, not W - 1 or W + 1."""
    lr = np.asarray(build(name, warmup="20 steps")(np.arange(22)), np.float64) / PEAK
    start = lookup.fields("schedule", name)["start"].default if name == "one_cycle" else 0.0
    np.testing.assert_allclose(lr[:21], np.linspace(start, 1, 21), rtol=1e-5, atol=1e-7)
    assert lr[21] <= 1 + 1e-6


TABLES = [
    ("constant", dict(warmup="10"), {0: 0, 5: 0.5, 10: 1, 99: 1, 100: 1, 200: 1}),
    ("constant", dict(level=0.25), {0: 0.25, 100: 0.25}),
    ("linear", {}, {0: 1, 25: 0.75, 99: 0.01, 100: 0, 101: 0}),
    ("linear", dict(start=0.2, end=0.6), {0: 0.2, 50: 0.4, 100: 0.6, 300: 0.6}),
    ("polynomial", dict(power=2.0), {0: 1, 50: 0.25, 90: 0.01, 100: 0, 150: 0}),
    ("polynomial", dict(power=2.0, floor=0.2, warmup="20%"), {0: 0, 10: 0.5, 20: 1, 60: 0.4, 100: 0.2, 150: 0.2}),
    ("cosine", dict(floor=0.1, warmup="10"), {0: 0, 10: 1, 55: 0.55, 100: 0.1, 150: 0.1}),
    ("inverse_sqrt", dict(warmup="25"), {0: 0, 1: 1 / 25, 25: 1, 36: 5 / 6, 100: 0.5, 150: 0.5}),
    ("inverse_sqrt", dict(timescale="30"), {0: 1, 90: 0.5}),
    ("warmup_stable_decay", dict(warmup="10", decay="20"), {0: 0, 10: 1, 80: 1, 90: 0.5, 100: 0, 101: 0}),
    ("warmup_stable_decay", dict(decay="50%", shape="sqrt", floor=0.1), {0: 1, 50: 1, 62.5: 0.55, 100: 0.1}),
    ("one_cycle", {}, {0: 0.04, 15: 0.52, 30: 1, 65: 0.500002, 100: 4e-6}),
    ("step", {}, {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 100: 0.01, 150: 0.01}),
    ("step", dict(drops=("2 epochs",), factor=0.5), {39: 1, 40: 0.5}),
    ("cosine_restarts", dict(cycle="20", growth=2.0), {0: 1, 10: 0.5, 20: 1, 40: 0.5, 60: 1, 100: 0.5}),
    ("cosine_restarts", dict(cycle="50", shrink=0.5, floor=0.1), {0: 1, 25: 0.55, 50: 0.5, 75: 0.3}),
    ("range_test", dict(low=0.01, high=100.0), {0: 0.01, 99: 100, 100: 100, 49.5: 1}),
    ("chain", {}, {0: 0, 5: 0.5, 10: 1, 49: 1, 50: 1, 75: 0.55, 100: 0.1, 120: 0.1}),
]


@pytest.mark.parametrize("name,kw,table", TABLES)
def test_table(name, kw, table):
    """KNOWN_BUGS 18: the value at 0, at the end of the warm-up, at T and after it."""
    lr_fn = build(name, **kw)
    for step, expected in table.items():
        np.testing.assert_allclose(lr_fn(step) / PEAK, expected, rtol=2e-5, atol=1e-7, err_msg=f"step {step}")


def test_polynomial_is_the_formula():
    lr = build("polynomial", 1000, power=1.5)(np.arange(1001))
    np.testing.assert_allclose(lr, PEAK * (1 - np.arange(1001) / 1000) ** 1.5, rtol=1e-4, atol=1e-9)


def test_agreement_with_optax_where_it_has_the_same():
    steps = np.arange(100)
    theirs = optax.warmup_cosine_decay_schedule(0.0, PEAK, warmup_steps=10, decay_steps=100, end_value=0.1 * PEAK)
    np.testing.assert_allclose(build("cosine", warmup="10", floor=0.1)(steps), theirs(steps), rtol=1e-5, atol=1e-9)
    theirs = optax.polynomial_schedule(PEAK, 0.3 * PEAK, power=3.0, transition_steps=100)
    np.testing.assert_allclose(build("polynomial", power=3.0, floor=0.3)(steps), theirs(steps), rtol=1e-5, atol=1e-9)


def test_noam_is_the_papers_curve():
    """d^-0.5 min(n^-0.5, n W^-1.5), with the peak that the module's docstring says."""
    d, w, n = 512, 40, np.arange(1, 101)
    lr = build("inverse_sqrt", peak=1 / (d * w) ** 0.5, warmup="40")(n)
    np.testing.assert_allclose(lr, d**-0.5 * np.minimum(n**-0.5, n * w**-1.5), rtol=1e-5)


def test_durations_of_all_units_mean_the_same_warm_up():
    tables = [build("cosine", warmup=w)(np.arange(100)) for w in ("20", "20 steps", "20%", "1 epochs", "80 examples", "640 tokens")]
    for other in tables[1:]:
        np.testing.assert_array_equal(tables[0], other)


def test_a_percent_inside_a_chain_is_of_the_part():
    parts = dict(a=dict(name="constant", kw=dict(warmup="50%")), b=dict(name="linear", kw={}))
    lr_fn = build("chain", parts=parts, order=("a", "b"), durations=("40",))
    np.testing.assert_allclose(lr_fn(np.array([0, 10, 20, 39, 40, 70, 100])) / PEAK, [0, 0.5, 1, 1, 1, 0.5, 0], rtol=1e-5, atol=1e-7)


def test_a_schedule_is_given_what_it_asks_for(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    code = "def schedule(peak: float, by: float = 0.5):\n  return lambda step: peak * by + 0.0 * step\n"
    (tmp_path / "own" / "halved.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = config_lib.resolve(dict(lr=PEAK, schedule=dict(name="own.halved", kw=dict(by=0.25))))
    assert float(optimizer.make_schedule(config, 100, int)(3)) == pytest.approx(PEAK / 4)
    parts = dict(a=dict(name="own.halved", kw={}), b=dict(name="linear", kw={}))
    assert float(build("chain", parts=parts, order=("a", "b"), durations=("40",))(10)) == pytest.approx(PEAK / 2)


@pytest.mark.parametrize(
    "arguments, said",
    [("total_steps", 'must ask for "peak"'), ("peak=1e-3", 'must ask for "peak"'), ("peak, steps=3", "the lab gives steps")],
)
def test_a_schedule_that_would_ignore_the_run_is_a_problem_of_the_config(tmp_path, monkeypatch, arguments, said):
    """It would train at a rate of its own, whatever config.lr says."""
    name = f"ignores{len(arguments)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "one.py").write_text(f"def schedule({arguments}):\n  return lambda step: 0.0 * step\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"schedule: {name}.one: .*{said}"):
        config_lib.resolve(dict(schedule=f"{name}.one"))


@pytest.mark.parametrize(
    "body, said",
    [
        ("return peak", "expected a function of the step.*TypeError"),
        ("import math\n  return lambda step: peak * math.sqrt(step)", "jax.numpy, not math.*Error"),
        ("return lambda step: step[None] * peak", r"one rate for a step, got an array of shape \[1\]"),
    ],
)
def test_what_is_no_schedule_is_said_with_its_name(tmp_path, monkeypatch, body, said):
    name = f"wrong{len(body)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "one.py").write_text(f"def schedule(peak):\n  {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = config_lib.resolve(dict(schedule=f"{name}.one"))
    with pytest.raises(UserError, match=rf"schedule {name}.one: (.|\n)*{said}"):
        optimizer.make_schedule(config, 100, int)


@pytest.mark.parametrize(
    "kw,problem",
    [
        (dict(order=("rise", "hold")), "order"),
        (dict(durations=("10%",)), "durations"),
        (dict(durations=("60%", "40%")), "leave nothing"),
        (dict(durations=("60%", "60%")), "leave nothing"),
        (dict(parts={}, order=()), "order"),
    ],
)
def test_a_chain_that_cannot_be_joined_is_an_error(kw, problem):
    with pytest.raises(UserError, match=problem):
        build("chain", **kw)


@pytest.mark.parametrize(
    "name,kw",
    [
        ("warmup_stable_decay", dict(warmup="50%", decay="60%")),
        ("step", dict(drops=("75%", "50%"))),
        ("step", dict(drops=("5",), warmup="10")),
        ("cosine_restarts", dict(growth=0.5)),
        ("cosine", dict(warmup="many")),
    ],
)
def test_settings_that_contradict_each_other_are_errors(name, kw):
    with pytest.raises(UserError):
        build(name, **kw)


@pytest.mark.parametrize(
    "name,kw",
    [
        ("polynomial", dict(power=-1.0)),
        ("cosine", dict(floor=2.0)),
        ("warmup_stable_decay", dict(floor=-0.1)),
        ("range_test", dict(low=1.0, high=0.1)),
        ("cosine_restarts", dict(growth=0.9)),
        ("chain", dict(order=("no",))),
    ],
)
def test_problems_are_found_without_importing_the_schedule(name, kw):
    complete = {key: field.default for key, field in lookup.fields("schedule", name).items()} | NEEDED.get(name, {})
    assert lookup.problems("schedule", name, complete) == []
    assert len(lookup.problems("schedule", name, {**complete, **kw})) == 1
