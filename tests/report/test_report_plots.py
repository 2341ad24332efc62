"""Pictures: drawn from what a run really writes, readable files, no display and no matplotlib before one is drawn."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.report import lines, plots


@pytest.fixture
def metrics(tmp_path):
    return write_run(tmp_path / "metrics.jsonl")


def write_run(path, offset=0.0, last=""):
    rows = [{"step": s, "train/loss": offset + math.exp(-s / 20), "train/lr": 1e-3 * (1 - s / 60)} for s in range(1, 61)]
    rows += [{"step": s, "val/loss": offset + 0.1 + math.exp(-s / 20), "val/accuracy": 0.5} for s in (0, 20, 40, 60)]
    rows += [{"step": 20, "samples/text": "ROMEO:"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + last)
    return path


def colours(path):
    """Colours of a picture that cover more than a few dots."""
    from matplotlib import image

    pixels = (image.imread(path)[..., :3] * 255).round().astype(int) @ (1 << 16, 1 << 8, 1)
    found, counts = np.unique(pixels, return_counts=True)
    return {f"#{colour:06X}" for colour in found[counts > 100]}


def test_curves_show_training_validation_and_learning_rate(metrics, tmp_path):
    path = plots.curves(metrics, tmp_path / "deep" / "curves.png")
    assert path == tmp_path / "deep" / "curves.png"
    assert {lines.BLUE, lines.RED, lines.BLACK} <= colours(path)


def test_a_loss_is_not_said_to_be_of_tokens(metrics, tmp_path, monkeypatch):
    """That of a classifier is of examples, of a tagger of words, of a score a squared error."""
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, panels, path: drawn.append(figure.axes[0].get_ylabel()) or path)
    plots.curves(metrics, tmp_path / "curves.png")
    plots.compare({"a": metrics}, tmp_path / "compare.png")
    assert drawn == ["loss", "loss"]


def test_a_run_with_nothing_yet_still_gives_a_picture(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert plots.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png").stat().st_size > 0


def test_compare_draws_every_run_and_names_one_without_the_number(metrics, tmp_path, monkeypatch):
    runs = {"a": metrics, "b": write_run(tmp_path / "b.jsonl", 0.2), "c": write_run(tmp_path / "c.jsonl", 0.4)}
    path = plots.compare(runs, tmp_path / "compare.png")
    assert set(lines.COLOURS[:3]) <= colours(path)
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure.axes))
    plots.compare(runs, tmp_path / "compare.png")
    top, bottom = drawn[0]
    lasts = {"a": 0.1 + math.exp(-3), "b": 0.3 + math.exp(-3), "c": 0.5 + math.exp(-3)}
    assert [line.get_label() for line in top.get_lines()] == [f"{name}: {last:.4f}" for name, last in lasts.items()], "the best first"
    assert [line.get_ydata()[-1] for line in top.get_lines()] == pytest.approx(list(lasts.values())) and len(bottom.get_lines()) == 3
    with pytest.raises(UserError, match="test/loss in the metrics of a"):
        plots.compare({"a": metrics}, tmp_path / "no.png", key="test/loss")


def test_schedules_are_drawn_from_functions_of_arrays(tmp_path):
    path = plots.schedule_figure({"flat": lambda t: 0 * t + 1.0, "fall": lambda t: 1 - t / 1e5}, 100_000, tmp_path / "s.png")
    assert set(lines.COLOURS[:2]) <= colours(path)


def test_range_test_draws_and_suggests(tmp_path):
    lrs = np.geomspace(1e-5, 1, 100)
    x = np.log10(lrs)
    losses = 3 - 1 / (1 + np.exp(-4 * (x + 3))) + np.exp(8 * (x + 1))
    rows = [{"step": i, "train/lr": lr, "train/loss": loss} for i, (lr, loss) in enumerate(zip(lrs, losses, strict=True))]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path, lr = plots.range_test(tmp_path / "m.jsonl", tmp_path / "r.png")
    assert path.is_file() and abs(math.log10(lr) + 3) < 0.3


def test_a_line_cut_short_by_a_kill_is_left_out_but_damage_is_not(tmp_path):
    whole = plots.read_metrics(write_run(tmp_path / "a.jsonl"))
    cut = plots.read_metrics(write_run(tmp_path / "b.jsonl", last='{"step": 61, "train/lo'))
    assert whole == cut
    (tmp_path / "c.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(UserError, match="c.jsonl, line 1"):
        plots.read_metrics(tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="no such file"):
        plots.read_metrics(tmp_path / "none.jsonl")


def test_a_step_written_again_after_a_resume_counts_once():
    rows = [{"step": 1, "x": 5.0}, {"step": 2, "x": 6.0}, {"step": 3, "y": "text"}, {"step": 2, "x": 7.0}, {"step": 0, "x": None}]
    steps, values = plots.series(rows, "x")
    assert steps.tolist() == [1, 2] and values.tolist() == [5.0, 7.0]


def test_matplotlib_is_imported_when_something_is_drawn():
    code = "import sys; import decoder_lab.report.plots; sys.exit('matplotlib' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
