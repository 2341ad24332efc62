"""Properties of the writers: numbers keep their bits, a resumed run's file equals the uninterrupted one's, a terminal stays readable."""

import contextlib
import io
import json
import math
import struct
import sys
import threading
import time
import types

import numpy as np
import pytest

from decoder_lab.core import lookup, runtime
from decoder_lab.core.errors import UserError
from decoder_lab.core.writer import Writers, console, hyperparameters, jsonl, tensorboard
from decoder_lab.core.writer import mlflow as mlflow_writer
from decoder_lab.core.writer import wandb as wandb_writer

CONFIG = {"lr": 0.1, "tags": ["a"], "adapt": None, "model": {"name": "m", "kw": {}}, "checkpoint": {"metric": "val/loss"}}
BINS = {"kind": "histograms", "groups": {"layer_0": {"edges": [0.0, 1.0, 3.0], "counts": [4, 2]}}}
DETAILS = {"norms/bins": BINS, "a/confusion": {"kind": "confusion", "labels": ["x"], "matrix": np.array([[1.5, math.nan]])}}


@pytest.mark.parametrize("name", lookup.names("writer"))
def test_every_writer_keeps_the_contract(name, tmp_path, monkeypatch):
    """Walks the folder: a new writer is tested before its author writes a test."""
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for resume_step in (None, 0, 5):
        writer = lookup.find("writer", name)(directory=tmp_path, resume_step=resume_step)
        writer.scalars(1, {"train/loss": np.float32(1.5), "val/x": 2, "val/nan": math.nan})
        writer.text(1, {"samples/a": "some\ntext"})
        writer.details(1, DETAILS)
        writer.progress(1, 10, {"loss": 1.0})
        writer.close()


# --- metrics.jsonl ---


def log(directory, first, last, resume_step=None, until=None):
    """Plays a run that evaluates every 2 steps; `until`: the process is killed there."""
    writer = jsonl.Writer(directory, resume_step)
    for step in range(first, (until or last) + 1):
        if step:
            writer.scalars(step, {"train/loss": 1 / (step + 1), "train/lr": 0.1})
        if step % 2 == 0:
            writer.scalars(step, {"val/loss": 2 / (step + 1)})
            writer.details(step, {"a/confusion": {"kind": "confusion", "labels": [], "matrix": [[step]]}})
            writer.text(step, {"samples": f"text of {step} ü"})
    if not until:
        writer.close()


def contents(directory):
    return [(directory / name).read_bytes() for name in (jsonl.METRICS, jsonl.SAMPLES, jsonl.DETAILS)]


@pytest.mark.parametrize("killed_after, saved_at", [(7, 4), (4, 4), (5, 4), (3, None), (9, 6)])
@pytest.mark.parametrize("logs_again", [False, True])
@pytest.mark.parametrize("torn", [b"", b"{", b'{"step": 8, "train/lo'])
def test_resumed_file_equals_the_uninterrupted_one(tmp_path, killed_after, saved_at, logs_again, torn):
    """KNOWN_BUGS 19, for the log: whether or not the resumed step is logged once more, and also if the last line is half written."""
    log(tmp_path / "whole", 0, 10)
    log(tmp_path / "killed", 0, 10, until=killed_after)
    with open(tmp_path / "killed" / jsonl.METRICS, "ab") as f:
        f.write(torn)
    first = 0 if saved_at is None else saved_at + (0 if logs_again else 1)
    log(tmp_path / "killed", first, 10, resume_step=saved_at)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_numbers_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    floats = rng.integers(0, 2**63, 200, dtype=np.uint64).view(np.float64)
    values = {f"x{i}": v for i, v in enumerate(floats[np.isfinite(floats)])}
    values |= {"third": np.float32(1 / 3), "tiny": 5e-324, "minus": -0.0, "count": 2**60 + 1, "array": np.ones((1, 1))[0, 0]}
    writer = jsonl.Writer(tmp_path, None)
    writer.scalars(3, values)
    writer.close()
    (line,) = jsonl.read(tmp_path / jsonl.METRICS)
    assert line["step"] == 3
    for name, value in values.items():
        assert struct.pack("<d", line[name]) == struct.pack("<d", value), name
    assert line["count"] == 2**60 + 1


def test_what_is_not_finite_is_valid_json_and_comes_back(tmp_path):
    writer = jsonl.Writer(tmp_path, None)
    writer.scalars(1, {"a": math.nan, "b": math.inf, "c": np.float32(-math.inf)})
    writer.close()

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / jsonl.METRICS).read_text()
    assert json.loads(text, parse_constant=refuse) == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
    (line,) = jsonl.read(tmp_path / jsonl.METRICS)
    assert math.isnan(line["a"]) and (line["b"], line["c"]) == (math.inf, -math.inf)


def test_each_line_is_in_the_file_at_once_and_half_a_line_is_not_read(tmp_path):
    writer = jsonl.Writer(tmp_path, None)
    writer.scalars(1, {"a": 1.0})
    with open(tmp_path / jsonl.METRICS, "ab") as f:
        f.write(b'{"step": 2')
    assert list(jsonl.read(tmp_path / jsonl.METRICS)) == [{"step": 1, "a": 1.0}]
    writer.close()


def test_any_text_can_be_written(tmp_path):
    text = 'line\nquote" 汉字 \ud800 \x00\x85\u2028 end'
    writer = jsonl.Writer(tmp_path, None)
    writer.text(1, {"samples": text})
    writer.close()
    line = (tmp_path / jsonl.SAMPLES).read_bytes()
    assert line.count(b"\n") == 1 and "汉字".encode() in line
    assert json.loads(line)["samples"] == text


def test_a_damaged_file_is_an_error_and_stays_as_it_is(tmp_path):
    log(tmp_path, 0, 4)
    path = tmp_path / jsonl.METRICS
    damaged = path.read_bytes().replace(b'{"step": 2', b'{"stop": 2', 1)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="line 3"):
        jsonl.Writer(tmp_path, 4)
    assert path.read_bytes() == damaged


def test_details_are_plain_data_that_stand_at_their_step(tmp_path):
    writer = jsonl.Writer(tmp_path, None)
    assert not (tmp_path / jsonl.DETAILS).exists()  # of a run that has none
    writer.details(7, DETAILS)
    writer.close()
    (line,) = jsonl.read_records(tmp_path / jsonl.DETAILS)
    assert line == {"step": 7, "norms/bins": BINS, "a/confusion": {"kind": "confusion", "labels": ["x"], "matrix": [[1.5, "nan"]]}}
    assert jsonl.read_records(tmp_path / "absent.jsonl") == []


def test_settings_are_flat_and_plain(tmp_path):
    assert hyperparameters(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    wanted = {"lr": 0.1, "tags": '["a"]', "adapt": "null", "model.name": "m", "model.kw": "{}", "checkpoint.metric": "val/loss"}
    assert hyperparameters(tmp_path) == wanted


# --- console ---


class Terminal(io.StringIO):
    encoding = "ascii"

    def isatty(self):
        return True


def screen(text):
    """What a terminal shows of a text with carriage returns and erasures."""
    lines = [""]
    for piece in text.replace("\x1b[K", "\x00").replace("\r", "\x01").split("\n"):
        for c in piece:
            lines[-1] = "" if c in "\x00\x01" else lines[-1] + c  # in the writer's output the two always come together
        lines.append("")
    return lines[:-1]


@pytest.fixture
def terminal(monkeypatch):
    fake = Terminal()
    monkeypatch.setattr(console, "sys", types.SimpleNamespace(stdout=fake))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(console, "REDRAW_SECONDS", 0)
    return fake


INFO = {"loss": 1.23456, "lr": 3e-4, "tokens_per_s": 123456.0, "mfu": 0.4012, "seconds_left": 200.0}


def test_a_terminal_shows_one_bar_below_the_lines(terminal, tmp_path):
    writer = console.Writer(tmp_path, None)
    writer.progress(10, 100, INFO)
    writer.scalars(10, {"val/loss": 1.5, "train/loss": 9.0, "time/mfu": 0.4})
    writer.progress(50, 100, INFO)
    writer.close()
    shown = screen(terminal.getvalue())
    assert shown[0] == "step 10  val/loss 1.5"
    assert shown[1].startswith("50/100 [########........] loss 1.235  lr 0.0003  123k tokens/s  MFU 40.1%  3:20 left")
    assert shown[2:] == [""]


def test_the_bar_never_wraps(terminal, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    console.Writer(tmp_path, None).progress(50, 100, INFO)
    assert len(screen(terminal.getvalue())[-1]) < 30


def test_without_a_terminal_there_are_plain_lines_now_and_then(capsys, tmp_path, monkeypatch):
    now = iter(range(0, 1000, 1))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    writer = console.Writer(tmp_path, None, every_seconds=10)
    for step in range(1, 26):
        writer.progress(step, 25, INFO)
    writer.close()
    out = capsys.readouterr().out
    assert "\r" not in out and "\x1b" not in out
    assert [line.split("  ")[0] for line in out.splitlines()] == ["step 1/25", "step 11/25", "step 21/25", "step 25/25"]


def test_sampled_text_cannot_steer_the_terminal(terminal, tmp_path):
    writer = console.Writer(tmp_path, None, max_characters=30)
    writer.text(5, {"samples/a": "red \x1b[31m bell \x07 ü\nnext" + "x" * 100})
    out = terminal.getvalue()
    assert "\x1b" not in out and "\x07" not in out and "\\x1b[31m" in out
    assert out.splitlines()[2].startswith("  | nextx") and out.endswith("x ...\n")


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (59.6, "1:00"), (725, "12:05"), (11220, "3:07:00")])
def test_durations(seconds, text):
    assert console._duration(seconds) == text


# --- the others ---


def events(directory):
    """The (step, tag) pairs in all event files, in TensorBoard's order, and each file's purge step (None where there is none)."""
    from tensorboardX.proto import event_pb2

    found, purges = [], []
    for path in sorted(directory.iterdir()):
        data, purge = path.read_bytes(), None
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = event_pb2.Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.HasField("session_log"):
                purge = event.step
            found += [(event.step, value.tag) for value in event.summary.value]
        purges.append(purge)
    return found, purges


def test_tensorboard_gets_scalars_and_texts_and_forgets_what_is_redone(tmp_path):
    for resume_step in (None, 4):
        writer = tensorboard.Writer(tmp_path, resume_step)
        for step in (2, 4, 6) if resume_step is None else (6,):
            writer.scalars(step, {"val/loss": np.float32(step)})
        writer.text(6, {"samples": "a\n  b"})
        writer.close()
    found, purges = events(tmp_path / tensorboard.FOLDER)
    assert [step for step, tag in found if tag == "val/loss"] == [2, 4, 6, 6]
    assert sum(tag.startswith("samples") for _, tag in found) == 2
    assert purges == [None, 5]  # from there on the older file is not shown; the resumed step itself stays


def test_tensorboard_gets_histograms_and_settings(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    writer = tensorboard.Writer(tmp_path, None)
    writer.details(3, DETAILS)
    writer.close()
    found, _ = events(tmp_path / tensorboard.FOLDER)
    tags = [tag for _, tag in found]
    assert (3, "norms/bins/layer_0") in found and (3, "a/confusion/text_summary") in found
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(tags)
    data = b"".join(path.read_bytes() for path in (tmp_path / tensorboard.FOLDER).iterdir())
    assert b"val/loss" in data and b"model.name" in data


class FakeMlflow(types.SimpleNamespace):
    """Keeps what a client is told."""

    def __init__(self):
        self.told = []
        entities = types.SimpleNamespace(Param=lambda *a: a, Metric=lambda *a: a)
        super().__init__(entities=entities, MlflowClient=lambda tracking_uri: self)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = types.SimpleNamespace(experiment_id="1", info=types.SimpleNamespace(run_id=f"run {len(self.told)}"))
        return lambda *a, **kw: self.told.append((name, a, kw)) or made


def test_mlflow_goes_on_with_its_run_and_starts_anew_from_scratch(tmp_path, monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    made = [mlflow_writer.Writer(tmp_path, resume_step) for resume_step in (None, 3, 0)]
    assert sum(name == "create_run" for name, *_ in fake.told) == 2
    assert made[0]._id == made[1]._id != made[2]._id
    settings = next(kw["params"] for name, _, kw in fake.told if name == "log_batch")
    assert ("lr", "0.1") in settings
    made[0].scalars(4, {"val/f1 (%)": np.float32(0.5)})
    (metric,) = fake.told[-1][2]["metrics"]
    assert (metric[0], metric[1], metric[3]) == ("val/f1 ---", 0.5, 4)


class CrowdedMlflow(FakeMlflow):
    """A store whose tables are made by whoever looks first, and whose experiment somebody else has just made."""

    def __init__(self):
        super().__init__()
        self.inside, self.most, self.exists = 0, 0, False
        self.exceptions = types.SimpleNamespace(MlflowException=type("MlflowException", (Exception,), {}))

    def get_experiment_by_name(self, name):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        return types.SimpleNamespace(experiment_id="7") if self.exists else None

    def create_experiment(self, name):
        self.exists = True
        error = self.exceptions.MlflowException()
        error.error_code = "RESOURCE_ALREADY_EXISTS"
        raise error


def test_mlflow_is_opened_by_several_runs_at_once(tmp_path, monkeypatch):
    """As the slots of a sweep do: one at a time makes the tables of a local store; an experiment that another made meanwhile is taken."""
    fake = CrowdedMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    runs = [threading.Thread(target=mlflow_writer.Writer, args=(tmp_path / str(i), None, uri)) for i in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert fake.most == 1 and [arguments for name, arguments, _ in fake.told if name == "create_run"] == [("7",)] * 3


def test_mlflow_is_told_how_a_run_ended(tmp_path, monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for how, status in ((None, "FINISHED"), (ValueError, "FAILED"), ("stopped", "KILLED")):
        with contextlib.suppress(ValueError), contextlib.closing(Writers([mlflow_writer.Writer(tmp_path, None)])) as writers:
            if how is ValueError:
                raise how
            if how:
                writers.stopped()
        assert fake.told[-1][0] == "set_terminated" and fake.told[-1][1][1] == status
    mlflow_writer.Writer(tmp_path, 3)
    assert fake.told[-1][0] == "update_run" and fake.told[-1][2] == {"status": "RUNNING"}


class FakeWandb(types.SimpleNamespace):
    def __init__(self):
        self.calls, self.logged = [], []
        super().__init__(Html=lambda text: text, Histogram=lambda np_histogram: np_histogram)

    def init(self, **kw):
        self.calls.append(kw)
        return types.SimpleNamespace(
            log=lambda values, step: self.logged.append((step, values)),
            mark_preempting=lambda: self.logged.append("preempting"),
            finish=lambda exit_code: self.logged.append(exit_code),
        )


def test_wandb_goes_on_with_its_run_and_starts_anew_from_scratch(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for resume_step in (None, 3, 3, 0):
        writer = wandb_writer.Writer(tmp_path / "my_run", resume_step, mode="offline")
    ids = [call["id"] for call in fake.calls]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert fake.calls[0]["name"] == "my_run" and fake.calls[0]["mode"] == "offline"
    writer.scalars(1, {"a": np.float32(2)})
    writer.text(1, {"s": "<b>"})
    assert fake.logged == [(1, {"a": 2.0}), (1, {"s": "<pre>&lt;b&gt;</pre>"})]
    writer.details(1, {"norms/bins": BINS})
    assert fake.logged[-1] == (1, {"norms/bins/layer_0": ([4, 2], [0.0, 1.0, 3.0])})


def test_wandb_is_told_how_a_run_ended(tmp_path, monkeypatch):
    """To W&B a run is preempted that says so and ends with another code than 0, failed where it only does the latter."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for how, told in ((None, [0]), (ValueError, [1]), ("stopped", ["preempting", runtime.EXIT_RESUMABLE])):
        with contextlib.suppress(ValueError), contextlib.closing(Writers([wandb_writer.Writer(tmp_path, None)])) as writers:
            if how is ValueError:
                raise how
            if how:
                writers.stopped()
        assert fake.logged == told
        fake.logged.clear()


def test_wandb_itself_takes_everything_offline(tmp_path, monkeypatch):
    """With the real package, where it is installed: nothing leaves the machine, and its file holds the same names."""
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    writer = wandb_writer.Writer(tmp_path, None, mode="offline")
    writer.scalars(1, {"val/loss": 0.5})
    writer.text(1, {"samples/0": "<b>"})
    writer.details(2, DETAILS)
    writer.stopped()
    writer.close()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    names = ("val/loss", "samples/0", "norms/bins/layer_0", "a/confusion", "lr", "model.name")
    end = time.monotonic() + 30  # a process of W&B's own writes the file, and may not be done when `finish` returns
    while lacking := [name for name in names if name.encode() not in path.read_bytes()]:
        assert time.monotonic() < end, lacking
        time.sleep(0.05)


@pytest.mark.slow
def test_mlflow_itself_takes_everything_offline(tmp_path, monkeypatch):
    """With the real package, where it is installed, into a database file; making its tables takes seconds."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny sqlalchemy alembic")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(CONFIG))
    client, seen = mlflow.MlflowClient(tracking_uri=uri), []
    for resume_step in (None, 2):
        writer = mlflow_writer.Writer(tmp_path / "run", resume_step, tracking_uri=uri)
        seen.append(client.get_run(writer._id).info.status)
        writer.scalars(2, {"val/loss": 0.5, "val/nan": math.nan})
        writer.text(2, {"samples/0": "<b>"})
        writer.details(2, DETAILS)
        if resume_step is None:
            writer.stopped()
        writer.close()
        seen.append(client.get_run(writer._id).info.status)
    assert seen == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    (run,) = client.search_runs([client.get_experiment_by_name("decoder_lab").experiment_id])
    assert run.data.metrics["val/loss"] == 0.5 and run.data.params["model.name"] == "m" and run.info.status == "FINISHED"
    assert {a.path for a in client.list_artifacts(run.info.run_id, "samples/0")} == {"samples/0/2.txt"}


@pytest.mark.parametrize("writer, package", [(wandb_writer, "wandb"), (tensorboard, "tensorboardX"), (mlflow_writer, "mlflow")])
def test_a_missing_package_is_named_with_its_command(writer, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        writer.Writer(tmp_path, None)


def test_fan_out_reaches_all_and_closes_all():
    calls = []

    class Recorder:
        def __init__(self, fails=False):
            self.fails = fails

        def __getattr__(self, name):
            if name == "stopped":  # which a writer need not have
                raise AttributeError(name)
            return lambda *arguments: calls.append((name, *arguments))

        def close(self):
            calls.append(("close",))
            if self.fails:
                raise OSError("full")

    writers = Writers([Recorder(fails=True), Recorder()])
    writers.scalars(1, {"a": 1.0})
    writers.text(1, {"t": "x"})
    writers.progress(1, 2, {})
    writers.stopped()
    with pytest.raises(OSError, match="full"):
        writers.close()
    assert calls == [c for c in (("scalars", 1, {"a": 1.0}), ("text", 1, {"t": "x"}), ("progress", 1, 2, {}), ("close",)) for _ in range(2)]
