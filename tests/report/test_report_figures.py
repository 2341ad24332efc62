"""Figures for a paper: each by its name, the same file for the same runs, what a name does not hit is listed."""

import json
import math
import xml.etree.ElementTree

import numpy as np
import pytest
from fake_runs import full_run, make_run

from decoder_lab.core.errors import UserError
from decoder_lab.report import __main__ as program
from decoder_lab.report import figures, lines
from decoder_lab.report import run as runs_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    for seed in (0, 1):
        make_run(folder / f"seed_{seed}", seed=seed)
    full_run(folder / "x_full", name="plain")
    return runs_of.read([folder])


@pytest.fixture
def drawn(runs, tmp_path, monkeypatch):
    """A function that gives the panels of a figure instead of a file."""
    made = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: made.append(figure))

    def draw(name, of=runs):
        figures.save(name, of, tmp_path / "x.svg")
        return made[-1].axes

    return draw


@pytest.mark.parametrize("name", ["loss", "confusion", "token_loss"])
def test_the_same_runs_give_the_same_file(runs, tmp_path, name):
    files = [tmp_path / f"{i}.svg" for i in range(2)]
    for file in files:
        figures.save(name, runs, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert xml.etree.ElementTree.parse(files[0]).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("confusion", [[5 / 6, 1 / 6, 0], [0, 60 / 61, 1 / 61], [2 / 11, 0, 9 / 11]]),
        ("transitions", [[0.5, -1.0, -np.inf]] * 3),
        ("ranks", [[8, 7, 6], [4, 4, 4]]),
        ("attention", [[0.375, 0.625], [0.5, 0.5]]),  # of the last layer the mean of its heads
        ("attention/layer_1", [[0.375, 0.625], [0.5, 0.5]]),
        ("attention/layer_0/0", [[0.25, 0.75], [1.0, 0.0]]),  # one head
        ("attention/layer_1/0", [[0.5, 0.5], [0.0, 1.0]]),
        ("attention/maps/0/layer_1/0", [[1.0, 0.5], [1.0, 0.0]]),  # of the evaluator's text, at the last step
    ],
)
def test_a_matrix_is_drawn_as_it_is(drawn, name, wanted):
    panel = drawn(name)[0]
    np.testing.assert_allclose(panel.images[0].get_array().filled(-np.inf), wanted)
    assert "plain" in [label.get_text() for label in panel.get_yticklabels()]
    written = [text.get_text() for text in panel.texts]
    assert written == [f"{value:.3g}" for row in wanted for value in row if np.isfinite(value)]


def test_seeds_are_drawn_as_a_band_with_those_that_failed_beside_it(drawn, tmp_path):
    """From the lowest to the highest of the two that ended; the third has a cross where it left the numbers, the fourth stopped."""
    for seed, last in ((0, 60), (1, 60), (2, 60), (3, 20)):
        rows = [{"step": s, "val/loss": seed + 1.0 if seed != 2 or s < 40 else math.nan} for s in range(0, last + 1, 20)]
        make_run(tmp_path / f"seed_{seed}", [json.loads(json.dumps(row).replace("NaN", '"nan"')) for row in rows], seed=seed)
    (panel,) = drawn("loss", runs_of.read([tmp_path]))
    (band,) = panel.collections
    edges = band.get_paths()[0].get_extents()
    assert (edges.x0, edges.x1, edges.y0, edges.y1) == (0, 60, 1, 2)
    found = {(line.get_linewidth() == lines.THIN, line.get_marker()): line.get_xydata().tolist() for line in panel.lines}
    assert found[False, "o"] == [[s, 1.5] for s in (0, 20, 40, 60)] and found[False, "x"] == [[20, 3]]
    assert sum(line.get_linewidth() == lines.THIN for line in panel.lines) == 2
    assert panel.lines[0].get_label().endswith("(2 of 4 seeds)")
    (panel,) = drawn("loss")
    labels = [line.get_label() for line in panel.lines if not line.get_label().startswith("_")]
    assert len(panel.collections) == 1 and len(labels) == 2 and labels[0].endswith("(2 seeds)")


def test_layers_histograms_times_and_tokens(drawn, tmp_path):
    found = {line.get_label(): line.get_ydata().tolist() for line in drawn("layers/ratio")[0].lines}
    np.testing.assert_allclose(found["embedding"], [0.1, 0.1])
    panel = drawn("histograms")[0]
    assert panel.get_title() == "plain" and panel.patches[0].get_data().values.tolist() == [3, 1]
    times = [{"step": 50, "time/steps_per_s": 0.5, "time/data": 0.25, "time/device": 0.75, "time/save_seconds": 40.0}]
    (panel,) = drawn("time", runs_of.read([make_run(tmp_path / "a", times)]))
    assert [(bar.get_x(), bar.get_width()) for bar in panel.patches] == [(0, 75), (75, 25), (100, 40)]
    panel = drawn("token_loss")[0]
    assert [text.get_text() for text in panel.texts] == ["never", " odd", "plain", "↵"]
    redness = [patch.get_facecolor()[1] for patch in panel.patches]  # of the two that have a loss: the higher, the less green
    assert len(redness) == 2 and redness[0] > 0.8 > 0.2 > redness[1]


def test_of_several_runs_that_know_something_the_first_is_drawn_and_all_are_named(runs, drawn, tmp_path, capsys):
    """Of several details of one kind each has a name of its own."""
    for name, matrix in (("a", [[1]]), ("b", [[2]])):
        found = [{"step": 5, f"{split}/confusion": dict(kind="confusion", labels=["x"], matrix=matrix)} for split in ("val", "test")]
        make_run(tmp_path / name, details=found)
    both = runs_of.read([tmp_path])
    assert {"confusion", "confusion/val/confusion", "confusion/test/confusion"} <= set(figures.names(both))
    assert [run.name for run in figures.save("confusion/test/confusion", both, tmp_path / "x.png")] == ["a", "b"]
    assert figures.save("loss", both, tmp_path / "x.png") == []
    assert program.main([str(tmp_path), "--figure=confusion", f"--output={tmp_path}"]) == 0
    assert capsys.readouterr().out.endswith("confusion.png, of a, the first of 2 runs that have one\n")
    assert "attention/layer_0" in figures.names(runs) and "attention/layer_0/0" not in figures.names(runs)


def test_as_png_too_and_a_name_that_there_is_not_is_answered_with_those_that_there_are(runs, tmp_path):
    from matplotlib import image

    figures.save("loss", runs, tmp_path / "a" / "loss.png")
    assert image.imread(tmp_path / "a" / "loss.png").shape[1] == 1100  # 5.5 inches
    with pytest.raises(UserError, match='Did you mean "confusion"') as error:
        figures.save("confusions", runs, tmp_path / "x.png")
    assert all(name in str(error.value) for name in figures.names(runs)) and "attention" in figures.names(runs)
    assert figures.names(runs[:1]) == ["learning_rate", "loss", "throughput", "time", *sorted(runs[0].numbers)]
