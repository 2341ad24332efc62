"""The report: its numbers are the runs', its texts stay texts, and no run is too broken to be shown."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fake_runs import CONFIG, HOSTILE, full_run, make_run, rows

from decoder_lab.core.errors import UserError
from decoder_lab.core.writer import jsonl
from decoder_lab.report import __main__ as report_main
from decoder_lab.report import decimate, groups, inside, page
from decoder_lab.report import run as runs_of
from decoder_lab.report.__main__ import main


class Reader(html.parser.HTMLParser):
    """Collects what a browser would: elements, texts outside scripts, the contents of scripts, and addresses."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.scripts, self.addresses, self.values, self._open = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        self.addresses += [found[name] for name in ("src", "href", "action") if name in found]
        self.values += [found["data-value"]] if "data-value" in found else []
        if tag not in ("meta", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        (self.scripts if self._open and self._open[-1] in ("script", "style") else self.texts).append(data)

    @property
    def data(self):
        return json.loads(next(text for text in self.scripts if text.startswith('{"charts"')))


def report(*folders, **kw):
    return Reader(page.page(runs_of.read(list(folders)), **kw))


def lines_of(reader):
    """{(number, run): (steps, values)} of the charts."""
    found = {}
    for chart in reader.data["charts"]:
        for line in chart["lines"]:
            found[chart["title"], line["l"]] = decimate.decode(line["d"])
    return found


def test_every_number_of_a_short_run_is_in_the_page_bit_for_bit(tmp_path):
    reader = report(make_run(tmp_path / "a"), make_run(tmp_path / "b", rows(offset=0.5), lr=0.5))
    found = lines_of(reader)
    for name in "ab":
        columns = runs_of.columns(list(jsonl.read(tmp_path / name / "metrics.jsonl")))
        assert len(columns) == 11
        for number, (steps, values) in columns.items():
            np.testing.assert_array_equal(found[number, name][0], steps)
            np.testing.assert_array_equal(found[number, name][1], values)
            if not number.startswith("time/"):
                assert repr(float(values[-1])) in reader.values, number


def test_of_a_long_run_no_spike_is_lost(tmp_path):
    """What the page holds are points of the file: every column's lowest and highest, first and last, and what is not finite."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_000)
    values[7_777], values[12_345], values[300:310] = 99.0, -99.0, np.nan
    steps = np.arange(20_000) * 10
    kept_steps, kept = decimate.decimate(steps, values, 200)
    assert len(kept) < 2 * 200 + 2 * 50 + 20
    at = {int(step): value for step, value in zip(kept_steps, kept, strict=True)}
    assert all(value == values[step // 10] or np.isnan(value) for step, value in at.items())
    assert at[77_770] == 99.0 and at[123_450] == -99.0 and np.isnan(kept).any() and 0 in at and 199_990 in at
    column = decimate.columns_of(steps, 200)
    for i in (0, 5, 199):
        inside = values[column == i]
        chosen = kept[(kept_steps >= steps[column == i][0]) & (kept_steps <= steps[column == i][-1])]
        assert np.nanmax(chosen) == np.nanmax(inside) and np.nanmin(chosen) == np.nanmin(inside)
    mean_steps, means = decimate.means(steps, values, 200)
    assert len(means) == 200 and means[5] == pytest.approx(np.nanmean(values[column == 5]))
    np.testing.assert_array_equal(decimate.decode(decimate.encode((kept_steps, kept)))[1], kept)


def test_text_that_looks_like_html_stays_text(tmp_path):
    """In settings, samples, tokens, labels, names of numbers and of runs, the title and the data of the script."""
    folder = tmp_path / "<b>run"
    full_run(folder, task=dict(name=HOSTILE, kw={}))
    with open(folder / "metrics.jsonl", "a") as f:
        f.write(json.dumps({"step": 61, HOSTILE: 1.0, f"x/{HOSTILE}": 2.0}) + "\n")
    reader = report(folder, title=HOSTILE)
    clean = report(make_run(tmp_path / "clean"))
    assert "img" not in reader.tags and reader.tags.count("b") < 100 and "onerror" not in " ".join(reader.addresses)
    assert reader.tags.count("script") == clean.tags.count("script") + 3  # the data of attention, of one text and of another at two steps
    shown = " ".join(reader.texts)
    for part in (f"{HOSTILE} at 60", "named so", "<b>run"):
        assert part in shown
    assert shown.count(HOSTILE) > 12 and HOSTILE in [c["title"] for c in reader.data["charts"]]
    assert all(address.startswith("#") for address in reader.addresses)
    assert not re.search(r"https?://(?!www\.w3\.org)", page.page(runs_of.read([folder])))


def test_every_part_stands_where_the_run_has_its_data_and_only_there(tmp_path):
    full = report(full_run(tmp_path / "full", name="plain", adapt=dict(name="adalora", kw={})))
    shown = " ".join(full.texts)
    parts = ["Loss of each token", "Attention", "Confusions", "CRF transitions", "Adapter ranks", "Layers", "Texts", "Where time goes"]
    for title in [*parts, "Summary", "Curves", "Learning rate", "Evaluations", "Model cards", "Settings"]:
        assert title in full.texts, title
    assert "waiting for data 25.0%, " in shown and "74 of 78 right" in shown
    bare = report(make_run(tmp_path / "bare"))
    assert not [title for title in parts[:-1] if title in bare.texts]
    hints = " ".join(bare.texts)
    assert "--evaluator=token_loss --evaluator=parameter_norms" in hints and "--attention" in hints


def test_where_time_goes_is_all_that_was_measured(tmp_path):
    """100 s of steps, a quarter of them waiting for data; 60 s of evaluating in two lines; 40 s of saving."""
    speed = {"time/steps_per_s": 0.5, "time/data": 0.25, "time/device": 0.5, "time/host": 0.25}
    lines = [
        {"step": 25, "train/loss": 1.0, **speed},
        {"step": 50, "train/loss": 1.0, "time/evaluate_seconds": 30.0, **speed},
        {"step": 50, "time/save_seconds": 40.0, "time/evaluate_seconds": 60.0},
    ]
    reader = report(make_run(tmp_path / "a", lines))
    shown = " ".join(reader.texts)
    for part in ("waiting for data 12.5%, 25 s", "waiting for the device 25.0%, 50 s", "evaluating 30.0%, 60 s", "saving 20.0%, 40 s"):
        assert part in shown, part
    assert "compiling" not in shown and not any("_seconds" in title for title, _ in lines_of(reader))


def test_runs_that_differ_in_a_seed_are_one_group(tmp_path):
    folders = [
        make_run(tmp_path / f"{name}_{seed}", lr=lr, seed=seed) for name, lr in (("low", 1e-4), ("high", 1e-2)) for seed in (0, 1, 2)
    ]
    found = groups.grouped(runs_of.read(folders))
    assert [(g.label, len(g.runs)) for g in found] == [("low", 3), ("high", 3)]
    reader = report(*folders)
    assert reader.data["groups"][0] == {"l": "low", "c": "var(--c0)", "n": 3}
    assert [line["g"] for line in reader.data["charts"][0]["lines"]] == [0, 0, 0, 1, 1, 1]
    text = " ".join(reader.texts)
    assert "0.0001" in text and "0.01" in text and "3 seeds" in text
    unnamed = groups.grouped(runs_of.read([make_run(tmp_path / n / "x", lr=v) for n, v in (("1", 0.1), ("2", 0.2))]))
    assert [g.label for g in unnamed] == ["1/x", "2/x"]


def test_several_seeds_are_a_mean_with_a_spread(tmp_path):
    lines = [[{"step": 1, "val/loss": value}] for value in (1.0, 2.0)]
    reader = report(*(make_run(tmp_path / f"r_{i}", lines[i], seed=i) for i in (0, 1)))
    assert "1.5000 ± 0.7071" in reader.texts and "1.0, 2.0" in reader.values


def test_a_seed_that_stopped_on_the_way_is_named_and_not_averaged(tmp_path):
    """Nor does it lose the comparison for its group: each seed of a is better than each of b at every step."""
    for seed, steps in ((0, 60), (1, 60), (2, 20)):
        make_run(tmp_path / f"a_{seed}", rows(steps), seed=seed)
        make_run(tmp_path / f"b_{seed}", rows(60, offset=0.05), seed=seed, lr=0.5)
    made = page.page(runs_of.read([tmp_path]))
    reader, last = Reader(made), runs_of.read([tmp_path / "a_0"])[0].last("val/loss")
    assert reader.texts.count(" without a_2 at 20") > 5 and f'<b title="{last!r}, {last!r}"' in made
    lines = {line["l"]: line for chart in reader.data["charts"] for line in chart["lines"] if chart["title"] == "val/loss"}
    assert [name for name, line in lines.items() if line.get("a")] == ["a_2"]
    ended = make_run(tmp_path / "c" / "a_3", rows(40), seed=3)  # one that came to its end earlier, as early stopping does
    (ended / "ended.json").write_text('{"exit_code": 0}')
    whole, others = groups.counted(runs_of.read([tmp_path / "a_0", tmp_path / "a_2", ended]), "val/loss")
    assert [run.name for run in whole] == ["a_0", "a_3"] and [run.name for run in others] == ["a_2"]


def test_what_is_not_finite_is_shown_as_that(tmp_path):
    lines = [{"step": 1, "val/loss": 1.0}, {"step": 2, "val/loss": "nan"}, {"step": 3, "val/loss": "inf", "val/other": "-inf"}]
    reader = report(make_run(tmp_path / "a", lines))
    _, values = lines_of(reader)["val/loss", "a"]
    np.testing.assert_array_equal(values, [1.0, np.nan, np.inf])
    assert "∞" in reader.texts and "−∞" in reader.texts and "1.0000 at 1" in reader.texts


def test_no_run_is_too_broken(tmp_path):
    """An empty one, one killed before its first number, a cut last line, a damaged line, damaged JSON, no config."""
    empty = make_run(tmp_path / "empty", [])
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "config.json").write_text(json.dumps(CONFIG))
    killed = make_run(tmp_path / "killed")
    with open(killed / "metrics.jsonl", "ab") as f:
        f.write(b'{"step": 61, "train/lo')
    damaged = make_run(tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    (damaged / "evaluation.json").write_text("{")
    bare = make_run(tmp_path / "bare", config=None)
    reader = report(empty, tmp_path / "nothing", killed, damaged, bare)
    shown = " ".join(reader.texts)
    assert "stopped before its first number" in shown and "not begun" in shown and "metrics.jsonl, line 1" in shown
    assert "evaluation.json" in shown and ("val/loss", "killed") in lines_of(reader) and ("val/loss", "bare") in lines_of(reader)
    for folder in (empty, killed, damaged, bare):
        report(folder)
    with pytest.raises(UserError, match="holds no run"):
        (tmp_path / "folder").mkdir()
        runs_of.read([tmp_path / "folder"])
    with pytest.raises(UserError, match="no such folder"):
        runs_of.read([tmp_path / "absent"])


def test_words_without_blanks_are_set_apart():
    """Those of a tokenizer of words; characters, and pieces that carry their blanks, stand as they are."""
    texts = [["to", "be", "."], ["t", "o", "␣", "b"], ["to", "␣be"], ["天", "地"]]
    made = inside.token_loss(dict(texts=[dict(tokens=tokens, losses=[1.0] * len(tokens)) for tokens in texts]))
    shown = [re.sub("<[^>]+>", "", text) for text in re.findall('<p class="tokens late">(.*?)</p>', made)]
    assert shown == ["to be .", "to b", "to be", "天地"]


def test_large_details_are_shown_at_fewer_steps(tmp_path, monkeypatch):
    """All runs and steps of a kind share one budget; the first and the last step stand in any case."""
    labels, matrix = [f"class {i}" for i in range(20)], [[1] * 20] * 20
    for name in "ab":
        found = [{"step": step, "report/confusion": dict(kind="confusion", labels=labels, matrix=matrix)} for step in range(0, 60, 5)]
        make_run(tmp_path / name, [], details=found, lr=ord(name))
    shown = {}
    for budget in (30_000, 4_000, 10):
        monkeypatch.setattr(inside, "MOST_CELLS", budget)
        made = page.page(runs_of.read([tmp_path]))
        shown[budget] = [made.count(f'data-step="{step}"') for step in range(0, 60, 5)], " a, 2 of 12 steps" in made
    assert shown[30_000] == ([2] * 12, False) and shown[10] == ([2] + [0] * 10 + [2], True)
    assert sum(shown[4_000][0]) * 400 == 4_000


ODD = {  # JSON, but not what this version writes
    "evaluation.json": ["[1]", '{"step":"x","a":[1]}', '{"test/loss": NaN}'],
    "evaluation_details.json": ["[1]", '{"a":{"detail":{"kind":"confusion"}}}', '{"a":{"step":1,"detail":[]}}'],
    "attention.json": [
        "[]",
        '{"layers":[{"name":"x"}]}',
        '{"rows":["a"],"columns":["b"],"layers":[{"name":"l","heads":[[[0.5, 0.5]]]}]}',
        '{"step":1,"text":"x","rows":["a"],"columns":["b"],"layers":[{"name":"l","heads":[[[NaN]],[["nan"]]]}]}',
    ],
    "details.jsonl": [
        '{"step":1,"n/norms":{"kind":"norms","groups":["a"],"parameters":[1]}}',
        '{"step":1,"c":{"kind":"confusion","labels":["a"],"matrix":[["nan"]]}}',
        '{"step":1,"c":{"kind":"token_loss","texts":[{"tokens":["a"],"losses":[]}]}}',
        '{"step":1,"h":{"kind":"histograms","groups":{"a":{"edges":["nan","nan"],"counts":[1]}}}}',
        '{"step":1,"h":{"kind":"ranks","groups":["a"],"ranks":["x"],"most":[1]}}',
        '{"step":1,"h":{"kind":["a"]},"i":{}}',
        '{"step":1,"n/norms":{"kind":"norms","groups":["a"],"parameters":[null],"gradients":["inf"],"updates":[1]}}',
    ],
    "history.jsonl": ["[1]}", '{"versions": 5}'],
    "config.json": ["[]", "null", '{"total_steps":"x","lr":null}'],
    "ended.json": ["[]", "null", "3"],
    "metrics.jsonl": ['{"step":"a","x":1}', '{"step":1.5,"x":1}', '{"step":-1,"x":1}', '{"step":99999999999,"x":1}', '{"step":null,"x":1}'],
    "samples.jsonl": ['{"step":null,"a":"x"}'],
    "checkpoints/5/checkpoint.json": ['{"arrays":{"params/a":["float32",[3],"x"]}}', '{"arrays":{},"meta":5}', "[]"],
}
HARMLESS = (*ODD["evaluation.json"][1:], ODD["attention.json"][3], ODD["details.jsonl"][6], ODD["config.json"][2])


@pytest.mark.parametrize("file, text", [(file, text) for file, texts in ODD.items() for text in texts])
def test_files_that_hold_something_else_are_named_and_the_rest_is_shown(tmp_path, file, text):
    run = full_run(tmp_path / "r", name="plain")
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text(text + "\n")
    reader = report(run)
    shown = " ".join(reader.texts)
    assert (f"{(run / file).name}: " in shown) == (text not in HARMLESS)
    assert "CRF transitions" in shown or file == "details.jsonl"


def test_runs_of_different_tasks_side_by_side(tmp_path):
    lines = [{"step": s, "report/f1_macro": s / 10, "val/loss": 1.0} for s in (0, 5)]
    config = CONFIG | dict(task=dict(name="classification", kw={}), checkpoint=dict(metric="report/f1_macro", mode="max"))
    other = make_run(tmp_path / "classes", lines, config=config)
    reader = report(make_run(tmp_path / "text"), other)
    assert "report/f1_macro" in reader.texts and "0.5000 at 5" in reader.texts and "classification" in reader.texts
    assert ("report/f1_macro", "text") not in lines_of(reader) and ("report/f1_macro", "classes") in lines_of(reader)
    assert "--evaluator=classification_report" in " ".join(reader.texts)


def test_a_folder_stands_for_the_runs_in_it_and_names_tell_them_apart(tmp_path):
    for place in ("one/a", "two/a", "two/b"):
        make_run(tmp_path / place)
    assert [run.name for run in runs_of.read([tmp_path])] == ["one/a", "two/a", "two/b"]
    shutil.copytree(tmp_path / "two" / "a", tmp_path / "two" / ".c@80.preparing")  # a branch that is being made
    (tmp_path / "two" / "a" / "export").mkdir()
    (tmp_path / "two" / "a" / "export" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "one" / "same").symlink_to(tmp_path / "one" / "a")
    (tmp_path / "one" / "round").symlink_to(tmp_path)
    assert [run.name for run in runs_of.read([tmp_path])] == ["one/a", "two/a", "two/b"]


@pytest.mark.parametrize(
    "names, labels",
    [
        (["lr=0.1_seed=0", "lr=0.1_seed=1", "lr=0.3_seed=0", "lr=0.3_seed=1"], ["lr=0.1", "lr=0.3"]),  # as a sweep calls them
        (["lr=0.1", "lr=0.1_seed=1", "lr=0.3", "lr=0.3_seed=1"], ["lr=0.1", "lr=0.3"]),  # and one that was made larger
        (["lora_1_s10", "lora_1_s11", "lora_2_s0", "lora_2_s1"], ["lora_1", "lora_2"]),
        (["lora10", "lora11", "full0", "full1"], ["lora", "full"]),
    ],
)
def test_a_group_is_called_what_its_runs_share(tmp_path, names, labels):
    for i, name in enumerate(names):
        make_run(tmp_path / name, [], lr=i // 2 + 1.0, seed=i % 2)
    assert [group.label for group in groups.grouped(runs_of.read([tmp_path / name for name in names]))] == labels


def test_commands_for_a_folder_are_run_on_each_run_in_it(tmp_path, monkeypatch):
    for name in "ab":
        make_run(tmp_path / "runs" / name)
    started = []
    monkeypatch.setattr(report_main, "_run_lab", started.append)
    assert main([str(tmp_path), "--evaluate=token_loss", "--attention=x", f"--output={tmp_path / 'x.html'}"]) == 0
    assert [line[1] for line in started] == [f"--workdir={tmp_path / 'runs' / name}" for name in "aabb"]
    assert [line[0] for line in started] == ["--mode=attention", "--mode=evaluate"] * 2


def test_the_command_writes_a_file_without_starting_jax(tmp_path):
    make_run(tmp_path / "a")
    code = f"""
import sys
from decoder_lab.report import __main__ as report
assert report.main([{str(tmp_path / "a")!r}]) == 0
assert not {{"jax", "matplotlib", "flax"}} & set(sys.modules), "heavy"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout and (tmp_path / "a" / "report.html").stat().st_size < 200_000
    assert main([str(tmp_path / "a"), f"--output={tmp_path / 'deep' / 'x'}", "--title=T"]) == 0
    assert "<title>T</title>" in (tmp_path / "deep" / "x.html").read_text()
    assert main([str(tmp_path / "a"), f"--output={tmp_path / 'folder'}{os.sep}"]) == 0 and (tmp_path / "folder" / "report.html").is_file()
    with pytest.raises(UserError, match="cannot be made"):
        main([str(tmp_path / "a"), f"--output={tmp_path / 'a' / 'config.json' / 'x.html'}"])
    wrong = subprocess.run([sys.executable, "-m", "decoder_lab.report", str(tmp_path / "b")], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr
