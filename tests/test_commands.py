"""What a user does with a run of pairs: translate a prompt, answer a file, look at the attention."""

import io
import json
import pathlib
import types

import pytest

from decoder_lab import commands
from decoder_lab import main as main_module
from decoder_lab.core.errors import UserError
from decoder_lab.training import resume

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two steps that reverses numbers."""
    folder = tmp_path_factory.mktemp("runs") / "reverse"
    config = ROOT / "experiments" / "sequence_to_sequence" / "reverse.py"
    settings = dict(total_steps=2, batch_size=8)  # the test set-up has eight devices, and a batch of eight rows
    settings |= {"data.source.kw.num_train": 64, "data.source.kw.num_evaluation": 16}
    settings |= {"data.source.kw.max_length": 5, "data.source.kw.max_length_evaluation": 6}
    settings |= {f"model.kw.{side}.kw.{size}": 8 for side in ("encoder", "decoder") for size in ("width", "embedding_dim")}
    settings |= {"evaluators.text.every": 0, "checkpoint.metric": "val/loss", "checkpoint.mode": "min"}
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    assert main_module.main([f"--config={config}", f"--workdir={folder}", *overrides]) == 0
    return folder


def run(*arguments):
    return main_module.main([str(a) for a in arguments])


def test_generate_writes_the_target_only(workdir, capsys):
    assert run("--mode=generate", f"--workdir={workdir}", "--prompt=3 4 1", "--num_tokens=4", "--temperature=0") == 0
    said = capsys.readouterr()
    assert not said.out.startswith("3 4 1") and "tokens, ended by" in said.err
    assert (
        run("--mode=generate", f"--workdir={workdir}", "--prompt=3 4 1", "--num_tokens=4", "--beam_size=2", "--coverage_penalty=0.2") == 0
    )
    with pytest.raises(UserError, match="not UTF-8"):
        run("--mode=generate", f"--workdir={workdir}", b"--prompt=\xff".decode("utf-8", "surrogateescape"))


def test_predict_answers_every_line_in_order_and_by_any_batch(workdir, capsys, tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"source": s, "id": s}) + "\n" for s in ("1 2 3", "4", "5 6 7 8")))
    answers = []
    for batch_size in (1, 2):
        out = tmp_path / f"out{batch_size}.jsonl"
        run("--mode=predict", f"--workdir={workdir}", f"--input={tmp_path / 'in.jsonl'}", f"--output={out}", f"--batch_size={batch_size}")
        answers.append([json.loads(line) for line in out.read_text().splitlines()])
    assert answers[0] == answers[1] and [x["id"] for x in answers[0]] == ["1 2 3", "4", "5 6 7 8"]
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("1 2 3\n4\n"))
    run("--mode=predict", f"--workdir={workdir}", "--input=-")
    typed = [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]
    assert typed == [x["prediction"] for x in answers[0][:2]]
    with pytest.raises(UserError, match="--input"):
        run("--mode=predict", f"--workdir={workdir}")
    out = tmp_path / "out1.jsonl"
    monkeypatch.setattr(resume, "inference_params", lambda *_: pytest.fail("a model was loaded before the flags were looked at"))
    written = out.read_text()
    (tmp_path / "broken.jsonl").write_text('{"source": "1"}\n{"source": \n')
    for flags, said in [
        ((f"--input={tmp_path / 'inn.jsonl'}",), f"there is no file {tmp_path}/inn.jsonl"),
        ((f"--input={tmp_path / 'broken.jsonl'}",), "broken.jsonl:2: not JSON"),
        (
            (f"--input={tmp_path / 'in.jsonl'}", "--temperature=0.5", "--stop=x"),
            "--temperature, --stop: this mode writes the most probable",
        ),
        ((f"--input={tmp_path / 'in.jsonl'}", "--num_samples=2", "--beam_size=2"), "--num_samples"),
    ]:
        with pytest.raises(UserError, match=said):
            run("--mode=predict", f"--workdir={workdir}", f"--output={out}", *flags)
    with pytest.raises(UserError, match=f"no folder {tmp_path}/none"):
        run("--mode=predict", f"--workdir={workdir}", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'none' / 'x.jsonl'}")
    assert out.read_text() == written  # which a mistyped --input emptied
    with pytest.raises(UserError, match="would be lost"):
        run("--mode=predict", f"--workdir={workdir}", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'in.jsonl'}")
    assert (tmp_path / "in.jsonl").read_text()


def test_a_run_that_writes_no_text_takes_no_flag_of_writing(monkeypatch, tmp_path):
    (tmp_path / "in.txt").write_text("a\n")
    monkeypatch.setattr(commands, "_open_run", lambda *_: None)
    config = types.SimpleNamespace(task=types.SimpleNamespace(name="classification"))
    flags, _ = main_module.parse(["--mode=predict", f"--input={tmp_path / 'in.txt'}", "--beam_size=3", "--num_tokens=9"])
    with pytest.raises(UserError, match='--num_tokens, --beam_size: this mode of a run of task "classification" writes no text'):
        commands.predict(config, flags)


def test_attention_draws_the_alignment_of_a_given_or_a_written_target(workdir, tmp_path, monkeypatch):
    run("--mode=attention", f"--workdir={workdir}", "--prompt=3 4 1", "--target=1 4 3", f"--output={tmp_path / 'x.png'}")
    page = (tmp_path / "x.html").read_text()
    data = json.loads(page.split("const data = ")[1].split(";\n")[0])
    assert data["columns"] == ["3", "4", "1", "⟨eos⟩"] and data["rows"] == ["1", "4", "3", "⟨eos⟩"]
    rows = data["layers"][0]["heads"][0]
    assert len(rows) == 4 and all(abs(sum(row) - 1) < 1e-2 for row in rows) and (tmp_path / "x.png").is_file()
    run("--mode=attention", f"--workdir={workdir}", "--prompt=3 4")
    assert (workdir / "attention.png").is_file() and (workdir / "attention.html").is_file()
    assert json.loads((workdir / "attention.json").read_text())["columns"] == ["3", "4", "⟨eos⟩"]  # what the report shows
    monkeypatch.setattr(resume, "inference_params", lambda *_: pytest.fail("a model was loaded before the flags were looked at"))
    for flags, said in [
        (("--prompt=3 4", "--layer=5"), "--layer: got 5, there are"),
        (("--prompt=3 4", "--prompt=5"), "--prompt: got 2"),
        (("--prompt=3 4", "--temperature=0"), "--temperature: this mode looks at one text"),
    ]:
        with pytest.raises(UserError, match=said):
            run("--mode=attention", f"--workdir={workdir}", *flags)


def test_an_evaluator_by_name_looks_into_a_checkpoint(workdir, capsys):
    """Its numbers go into evaluation.json, its details beside those of other evaluators."""
    (workdir / commands.DETAILS).write_text(json.dumps({"old/x": {"step": 1, "detail": {"kind": "norms"}}}))
    run("--mode=evaluate", f"--workdir={workdir}", "--evaluator=token_loss")
    found = json.loads((workdir / commands.DETAILS).read_text())
    assert found.keys() == {"old/x", "token_loss/texts"} and found["token_loss/texts"]["step"] == 2
    text = found["token_loss/texts"]["detail"]["texts"][0]
    assert text["tokens"][-1] == "⟨eos⟩" and len(text["tokens"]) == len(text["losses"]) and min(text["losses"]) > 0
    assert json.loads((workdir / "evaluation.json").read_text()) == {"step": 2, "checkpoint": "best"}
    with pytest.raises(UserError, match='Did you mean "token_loss"'):
        run("--mode=evaluate", f"--workdir={workdir}", "--evaluator=token_lost")
    with pytest.raises(UserError, match="leave --split out"):
        run("--mode=evaluate", f"--workdir={workdir}", "--evaluator=token_loss", "--split=test")
