"""What a user does with a run of pairs: translate a prompt, answer a file, look at the attention."""

import io
import json
import pathlib

import pytest

from decoder_lab import main as main_module
from decoder_lab.core.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two steps that reverses numbers."""
    folder = tmp_path_factory.mktemp("runs") / "reverse"
    config = ROOT / "experiments" / "sequence_to_sequence" / "reverse.py"
    # the test set-up has eight devices, and a batch of eight rows
    assert main_module.main([f"--config={config}:smoke", f"--workdir={folder}", "--config.evaluators.text.every=0"]) == 0
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
    with pytest.raises(UserError, match="would be lost"):
        run("--mode=predict", f"--workdir={workdir}", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'in.jsonl'}")
    assert (tmp_path / "in.jsonl").read_text()


def test_attention_draws_the_alignment_of_a_given_or_a_written_target(workdir, tmp_path):
    run("--mode=attention", f"--workdir={workdir}", "--prompt=3 4 1", "--target=1 4 3", f"--output={tmp_path / 'x.png'}")
    page = (tmp_path / "x.html").read_text()
    data = json.loads(page.split("const data = ")[1].split(";\n")[0])
    assert data["columns"] == ["3", "4", "1", "⟨eos⟩"] and data["rows"] == ["1", "4", "3", "⟨eos⟩"]
    rows = data["layers"][0]["heads"][0]
    assert len(rows) == 4 and all(abs(sum(row) - 1) < 1e-2 for row in rows) and (tmp_path / "x.png").is_file()
    run("--mode=attention", f"--workdir={workdir}", "--prompt=3 4")
    assert (workdir / "attention.png").is_file() and (workdir / "attention.html").is_file()
    with pytest.raises(UserError, match="--layer"):
        run("--mode=attention", f"--workdir={workdir}", "--prompt=3 4", "--layer=5")
