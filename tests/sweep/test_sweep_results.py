"""What a sweep shows: numbers as they stand in metrics.jsonl, read while they grow; tables, picture and progress made of them."""

import argparse
import csv
import json
import math
import statistics
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import __main__ as program
from decoder_lab.sweep import algebra, figure, live, results, slots
from decoder_lab.sweep import flags as sweep_flags
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


@settings(deadline=None)
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


def run_of(folder, name, values, status=folders.DONE, trial=None, **arm):
    folder.write(Record(name, len(folder.records()), arm, "", (), status=status, trial=trial))
    folder.workdir(name).mkdir(parents=True)
    lines = [json.dumps({"step": 10 * i, "val/loss": v, "train/lr": 1}) for i, v in enumerate(values)]
    (folder.workdir(name) / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_the_picture_has_a_line_for_each_arm_and_a_band_for_its_seeds(sweep, tmp_path):
    found = results.rows(sweep, [LOSS])
    path = figure.draw(sweep, found, LOSS, tmp_path / "x.svg")
    text = path.read_text()
    assert text.startswith("<?xml") and figure.draw(sweep, found, LOSS, tmp_path / "x.png").stat().st_size > 10_000
    top, bottom = figure.made(sweep, found, LOSS).axes
    lines = {line.get_label(): line for line in top.get_lines() if not line.get_label().startswith("_")}
    assert lines["a: 1.4167"].get_xydata().tolist() == [[0, pytest.approx(8 / 3)], [1, pytest.approx(4.75 / 3)]]
    (band,) = [{tuple(point) for path in band.get_paths() for point in path.vertices} for band in top.collections]
    assert len(lines) == len(bottom.get_lines()) == 2 and band == {(0, 2), (0, 3), (1, 1), (1, 2.5)}
    assert lines["b|<b>: 0.5000"].get_ydata().tolist() == [0.5, 0.75], "its other seed diverged, and stands beside it with a cross"
    assert [line.get_xydata().tolist() for line in top.get_lines() if line.get_marker() == "x"] == [[[0, 0.5]]]
    assert len({line.get_color() for line in lines.values()}) == 2
    with pytest.raises(UserError, match="no run has a val/accuracy"):
        figure.draw(sweep, found, Objective("val/accuracy", "max"), tmp_path / "x.png")


def test_a_run_that_failed_is_a_line_of_its_own_in_the_picture(tmp_path):
    """Its two evaluations cut nothing off the others' curve, and are no part of its mean."""
    folder, last = Folder(tmp_path), Objective("val/loss", "min", "last")
    for seed in (0, 1):
        run_of(folder, f"s{seed}", [2 - i / 10 + seed for i in range(10)], seed=seed)
    run_of(folder, "s2", [9.0, 9.0], folders.FAILED, seed=2)
    top, _ = figure.made(folder, results.rows(folder, [last]), last).axes
    mean, other = top.get_lines()
    assert mean.get_xdata().tolist() == list(range(0, 100, 10)) and mean.get_ydata()[-1] == pytest.approx(1.6)
    assert mean.get_label() == f"{tmp_path.name}: 1.6000 (2 of 3 (failed))" and other.get_ydata().tolist() == [9, 9]
    assert other.get_linewidth() < mean.get_linewidth() and other.get_label().startswith("_"), "no entry of the legend"


def test_cooldowns_of_two_trunks_are_two_rows(tmp_path):
    folder = Folder(tmp_path)
    arms = algebra.chain(algebra.branches("sweeps/a/runs/stable", (100,)), algebra.branches("sweeps/b/runs/stable", (100,)))
    for arm, value in zip(arms, (1.0, 3.0), strict=True):
        run_of(folder, f"r{value:.0f}", [value], **arm)
    found = results.rows(folder, [LOSS])
    lines = figure.made(folder, found, LOSS).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["sweeps/a/runs/stable@100: 1.0000", "sweeps/b/runs/stable@100: 3.0000"]
    assert [(row.settings["from"], row.mean(0)) for row in found] == [("sweeps/a/runs/stable@100", 1.0), ("sweeps/b/runs/stable@100", 3.0)]
    for seed in (0, 1):
        run_of(folder, f"c{seed}", [5.0 + seed], **{"@name": "cool", "@from": f"runs/stable_seed={seed}@100", "seed": seed})
    (seeds,) = results.rows(folder, [LOSS], ["c0", "c1"])
    assert (seeds.mean(0), seeds.spread(0)) == (5.5, statistics.stdev([5, 6])), "of one trunk's seeds they are one row"
    for name, lr in (("stable", 0.1), ("stable", 0.2), ("short", 0.1)):
        run_of(folder, f"{name}{lr}", [lr], **{"@name": name, "lr": lr, "total_steps": 5})
    lines = figure.made(folder, results.rows(folder, [LOSS], ["stable0.1", "stable0.2", "short0.1"]), LOSS).axes[0].get_lines()
    assert {line.get_label() for line in lines} == {"stable, lr 0.1: 0.1000", "stable, lr 0.2: 0.2000", "short: 0.1000"}


def test_a_run_that_was_given_up_is_not_the_best(tmp_path):
    folder = Folder(tmp_path)
    run_of(folder, "whole", [0.6], lr=1.0, seed=0)
    run_of(folder, "given_up", [0.5], folders.PRUNED, trial=1, lr=2.0, seed=1)
    found = results.rows(folder, [LOSS])
    assert [row.settings["lr"] for row in found] == [1.0, 2.0] and found[1].mean(0) is None
    assert "| 1 | 0.6000 | 1 | 0 |\n| 2 | - | 0 of 1 (pruned) | 0 |" in results.markdown(found, [LOSS])
    assert "given_up,2.0,1,0.5,pruned" in results.each_run(found, [LOSS]), "what it had is among the runs"


def test_tables_tell_near_values_apart_and_stay_tables(tmp_path):
    folder = Folder(tmp_path)
    run_of(folder, "0", [0.1], ema=0.99991, prompt="one\ntwo")
    run_of(folder, "1", [0.2], ema=0.99993, prompt="one")
    lines = results.markdown(results.rows(folder, [LOSS]), [LOSS]).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 0.99991 | one two |") and lines[3].startswith("| 0.99993 | one |")


def test_a_damaged_line_is_said_and_nothing_of_its_file_is_believed(tmp_path, capsys):
    """As a power failure leaves it: the other runs' table is made, the run stands in it as unreadable."""
    folder = Folder(tmp_path)
    folder.remember({"declaration": {}, "objectives": [{"name": "val/loss", "mode": "min"}], "search": None, "directory": str(tmp_path)})
    for seed in (0, 1, 2):
        run_of(folder, f"s{seed}", [5.0, 1.0 + seed], seed=seed)
    damaged = folder.workdir("s0") / "metrics.jsonl"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:20] + b"\0" * 30 + b"\n" + whole[20:])
    assert program.main([f"--workdir={tmp_path}", "--table"]) == 0
    out = capsys.readouterr().out
    assert "| 2.5000 ± 0.7071 | 2 of 3 (unreadable) |" in out and f"s0: {damaged}, line 1 cannot be read" in out.splitlines()
    assert ",unreadable," in (tmp_path / "runs.csv").read_text() and "unreadable" in (tmp_path / "table.html").read_text()
    following = Following(damaged, ["val/loss"]).read()
    assert following.step == 10 and following.unreadable == f"{damaged}, line 1", "what follows is read, for those who only watch"
    damaged.unlink()
    damaged.write_bytes(whole)
    assert following.read().unreadable == "" and following.series("val/loss") == [5.0, 1.0]


def test_an_objective_that_no_run_has_is_said(tmp_path, capsys):
    """Where a sweep is only looked at, its config is not read, and a mistyped number is no error: the table has a column without values."""
    folder = Folder(tmp_path)
    folder.remember({"declaration": {}, "objectives": [{"name": "val/loss", "mode": "min"}], "search": None, "directory": str(tmp_path)})
    run_of(folder, "a", [1.0], lr=1)
    run_of(folder, "b", [], folders.FAILED, lr=2)
    flags = [f"--workdir={tmp_path}", "--table", "--direction=min"]
    assert program.main([*flags, "--objective=val/los"]) == 0
    assert 'no run has a val/los. Did you mean "val/loss"? a has: train/lr, val/loss.\n' in capsys.readouterr().out
    assert program.main(flags) == 0 and "no run has" not in capsys.readouterr().out


def test_a_file_that_is_replaced_while_it_is_opened_is_read_from_its_beginning(tmp_path, monkeypatch):
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    path.write_text("".join(f'{{"step": {i}, "val/loss": 1.0}}\n' for i in range(3)))
    other.write_text("".join(f'{{"step": {i}, "train/learning_rate": 0.5, "val/loss": 2.0}}\n' for i in range(9)))
    following, opened = Following(path, ["val/loss"]), open

    def replaced(*arguments):
        file = opened(*arguments)
        if other.exists():
            other.replace(path)
        return file

    monkeypatch.setattr("builtins.open", replaced)
    following.read()
    assert following.read().series("val/loss") == [2.0] * 9


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


def test_a_number_that_only_some_arms_give_is_an_objective_all_the_same(capsys):
    flags = argparse.Namespace(objective="val/loss", direction="min", value="")
    without, having = (config_lib.resolve(dict(evaluators=found, checkpoint=dict(keep_best=0))) for found in ({}, {"val": "mean"}))
    for configs in ([without, having], [having, without]):
        assert [objective.name for objective in sweep_flags.objectives(flags, {}, configs)] == ["val/loss"]
        assert "val/loss: 1 of 2 runs do not give it" in capsys.readouterr().out
    with pytest.raises(UserError, match="--objective: val/loss comes from no evaluator"):
        sweep_flags.objectives(flags, {}, [without, without])
