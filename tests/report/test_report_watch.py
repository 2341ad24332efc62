"""The served report follows its runs, and answers this machine alone."""

import errno
import http.client
import json
import pathlib
import threading

import pytest
from fake_runs import make_run

from decoder_lab.report import watch


@pytest.fixture
def served(tmp_path):
    """A folder with a run, and a function that asks the server for a path."""
    make_run(tmp_path / "a")
    made = watch.server(watch.Report([tmp_path]), 0)
    threading.Thread(target=made.serve_forever, daemon=True).start()

    def ask(path, host=None):
        connection = http.client.HTTPConnection(*made.server_address, timeout=20)
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    yield tmp_path, ask
    made.shutdown()
    made.server_close()


def test_the_page_follows_the_run(served):
    folder, ask = served
    assert ask("/")[0] == 200 and '"live":true' in ask("/")[1]
    before = ask("/version")
    assert before == ask("/version")
    with open(folder / "a" / "metrics.jsonl", "a") as f:
        f.write(json.dumps({"step": 61, "val/loss": 0.4242}) + "\n")
    assert ask("/version") != before and "0.4242" in ask("/")[1]
    later = ask("/version")
    make_run(folder / "b")
    assert ask("/version") != later and "2 runs" in ask("/")[1]


def test_files_that_come_and_go_are_no_error(tmp_path, monkeypatch):
    """As checkpoints do that are rotated away, and locks: what was seen a moment ago is no longer there when it is looked at."""
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    for step in (1, 2):
        (tmp_path / "a" / "checkpoints" / str(step)).mkdir(parents=True)
    (tmp_path / "a" / "run.lock").write_text("")
    (tmp_path / "c").mkdir()
    made = watch.Report([tmp_path])
    gone = (tmp_path / "c", tmp_path / "b" / "details.jsonl", tmp_path / "a" / "run.lock", tmp_path / "a" / "checkpoints")
    real_stat, real_list = pathlib.Path.stat, pathlib.Path.iterdir

    def stat(path, **kw):
        if path in gone[1:3]:
            raise FileNotFoundError(errno.ENOENT, path)
        return real_stat(path, **kw)

    def listed(path):
        if path in gone:
            raise FileNotFoundError(errno.ENOENT, path)
        return real_list(path)

    monkeypatch.setattr(pathlib.Path, "stat", stat)
    monkeypatch.setattr(pathlib.Path, "iterdir", listed)
    assert made.version() and b"2 runs" in made.page()


def test_other_paths_and_other_names_of_this_machine_are_refused(served):
    _, ask = served
    assert ask("/../a/config.json")[0] == 404 and ask("/config.json")[0] == 404
    assert ask("/", host="evil.example:80")[0] == 403 and ask("/", host="localhost:80")[0] == 200


def test_a_run_that_has_not_begun_is_waited_for(tmp_path):
    with watch.server(watch.Report([tmp_path / "a"]), 0) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection(*made.server_address, timeout=20)
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 503 and "no such folder" in body and 'http-equiv="refresh"' in body
        made.shutdown()


def test_a_port_that_is_taken_gives_the_next(tmp_path):
    with watch.server(watch.Report([tmp_path]), 0) as first:
        port = first.server_address[1]
        with watch.server(watch.Report([tmp_path]), port) as second:
            assert port < second.server_address[1] < port + watch.TRIES
