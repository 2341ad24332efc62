"""What a sweep shows: numbers as they stand in metrics.jsonl, read while they grow; tables, picture and progress made of them."""

import csv
import json
import math
import statistics
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoder_lab.core.errors import UserError
from decoder_lab.sweep import figure, live, results, slots
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.folder import Folder, Record
from decoder_lab.sweep.following import Following, Objective

LOSS = Objective("val/loss", "min")
VALUES = {"a": {0: [3.0, 1.25], 1: [3.0, 1.0], 2: [2.0, 2.5]}, "b|<b>": {0: [0.5, 0.75], 1: [0.5, float("nan")]}, "c": {0: []}}


@pytest.fixture
def sweep(tmp_path):
    """A folder with runs of three arms; of the last one the run failed at once."""
    folder = Folder(tmp_path)
    for arm, by_seed in VALUES.items():
        for seed, values in by_seed.items():
            name = f"{list(VALUES).index(arm)}{seed}"
            status = folders.DONE if values else folders.FAILED
            record = Record(name, len(folder.records()), {"model.kw.kind": arm, "seed": seed, "total_steps": 2}, "x.py", (), status=status)
            folder.write(record)
            folder.workdir(name).mkdir(parents=True)
            lines = [{"step": i, "val/loss": v if v == v else "nan", "train/lr": 0.1} for i, v in enumerate(values)]
            (folder.workdir(name) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_arms_have_mean_and_spread_over_seeds_and_only_columns_that_differ(sweep):
    found = results.rows(sweep, [LOSS])
    assert [row.settings for row in found] == [{"kind": "b|<b>"}, {"kind": "a"}, {"kind": "c"}], "best first, without a result last"
    best = [1.25, 1.0, 2.0]
    assert found[1].mean(0) == statistics.fmean(best) and found[1].spread(0) == statistics.stdev(best)
    table = list(csv.reader(results.comma_separated(found, [LOSS]).splitlines()))
    assert table[0] == ["kind", "val/loss, best, mean", "val/loss, best, standard deviation", "runs done", "runs", "seconds"]
    assert [float(x) for x in table[2][1:3]] == [statistics.fmean(best), statistics.stdev(best)] and table[3][1:5] == ["", "", "0", "1"]
    text = results.markdown(found, [LOSS])
    assert "| a | 1.4167 ± 0.5204 | 3 | 0 |" in text and "| b\\|<b> |" in text and "| c | - | 0 of 1 (failed) | 0 |" in text
    runs = list(csv.reader(results.each_run(found, [LOSS]).splitlines()))
    assert [row[0] for row in runs[1:]] == ["00", "01", "02", "10", "11", "20"] and runs[1][3] == "1.25"
    page = results.page(found, [LOSS], "</title><script>")
    assert "b|&lt;b&gt;" in page and "<script>" not in page and "http" not in page, "text stays text, and nothing is fetched"


def test_last_values_that_are_no_numbers_are_not_hidden(sweep):
    """The best value of a run that diverged later is its best; its last value is none, and neither is the mean."""
    last = Objective("val/loss", "min", "last")
    found = results.rows(sweep, [last])
    assert [row.settings["kind"] for row in found] == ["a", "b|<b>", "c"]
    assert math.isnan(found[1].mean(0)) and math.isnan(found[1].spread(0)) and "nan ± nan" in results.markdown(found, [last])
    assert Objective("x", "max").of([1.0, 3.0, 2.0]) == 3.0 and Objective("x", "max").better(2.0, 1.0) and LOSS.of([]) is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.data())
def test_a_growing_file_is_read_as_if_at_once(tmp_path_factory, values, data):
    """In any pieces, lines cut anywhere; and anew when a resumed run has put another file in its place."""
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    following = Following(path, ["val/loss"]).read()
    text = "".join(json.dumps({"step": i, "val/loss": v}) + "\n" for i, v in enumerate(values)).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        with open(path, "ab") as f:
            f.write(text[begin:end])
        following.read()
    assert following.series("val/loss") == values and following.step == len(values) - 1
    other = path.with_name("other")
    other.write_text('{"step": 0, "val/loss": "-inf"}\n')
    other.replace(path)
    assert following.read().series("val/loss") == [-math.inf] and following.step == 0


def test_the_picture_has_a_line_for_each_arm_and_a_band_for_its_seeds(sweep, tmp_path):
    found = results.rows(sweep, [LOSS])
    path = figure.draw(sweep, found, LOSS, tmp_path / "x.svg")
    text = path.read_text()
    assert text.startswith("<?xml") and figure.draw(sweep, found, LOSS, tmp_path / "x.png").stat().st_size > 10_000
    steps, values_RT = figure.common([{0: 1.0, 10: 2.0, 20: 3.0}, {0: 3.0, 20: 5.0}])
    assert steps.tolist() == [0, 20] and values_RT.tolist() == [[1.0, 3.0], [3.0, 5.0]]
    with pytest.raises(UserError, match="ends in .png"):
        figure.draw(sweep, found, LOSS, tmp_path / "x.jpeg")
    with pytest.raises(UserError, match="no run has a val/accuracy"):
        figure.draw(sweep, found, Objective("val/accuracy", "max"), tmp_path / "x.png")


def test_progress_counts_what_is_left(sweep, tmp_path):
    record = Record("30", 6, {"model.kw.kind": "d"}, "x.py", (), total_steps=4, status=folders.RUNNING)
    waiting = Record("31", 7, {"model.kw.kind": "e"}, "x.py", ())
    for r in (record, waiting):
        sweep.write(r)
    sweep.workdir("30").mkdir()
    (sweep.workdir("30") / "metrics.jsonl").write_text('{"step": 1, "val/loss": 0.25}\n')
    progress = live.Progress(sweep, LOSS, list(sweep.records()))
    active = [types.SimpleNamespace(record=record, slot=slots.Slot(0, "", {}), process=types.SimpleNamespace(seconds=10.0))]
    assert progress.counts() == {"done": 5, "failed": 1, "running": 1, "waiting": 1} and progress.share(record) == 0.25
    assert progress.seconds_left(active, 1) == pytest.approx(10 / 0.25 * 0.75 + 10 / 0.25)
    progress.note(record)
    assert progress.best == ("30", 0.25)
    from rich.console import Console

    console = Console(width=100, record=True, file=open(tmp_path / "out", "w"))
    console.print(live.render(progress, active, 1))
    shown = console.export_text()
    assert "[###.........] 1/4" in shown and "best val/loss 0.2500: 30; about 1:10 left" in shown
