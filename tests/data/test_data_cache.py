import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError
from decoder_lab.data import cache


def documents():
    yield np.arange(5), 5
    yield np.arange(3), 4


def build(label="d", progress=cache.silent, source="s", make=documents, vocab_size=10):
    return cache.token_cache(dict(source=source), make, lambda: 2, vocab_size, label, progress)


def test_holds_documents_and_sizes_and_is_built_once(own_cache):
    calls = []

    def counted():
        calls.append(1)
        return documents()

    tokens = build(make=counted)
    again = build(make=counted)
    assert again.tokens.tolist() == tokens.tokens.tolist() == [0, 1, 2, 3, 4, 0, 1, 2] and again.tokens.dtype == np.uint16
    assert again.offsets.tolist() == [0, 5, 8] and (again.num_bytes, again.num_documents, again.num_tokens) == (9, 2, 8)
    assert len(calls) == 1


def test_key_changes_with_every_fingerprint(own_cache):
    assert len({build(source=s).key for s in "abc"} | {cache.key("plan", {"source": "a"})}) == 4


def test_large_vocabulary_keeps_its_ids(own_cache):
    tokens = build(make=lambda: [(np.array([0, 70_000]), 1)], vocab_size=100_000)
    assert tokens.tokens.tolist() == [0, 70_000] and tokens.tokens.dtype == np.uint32


def test_ids_outside_the_vocabulary_are_refused(own_cache):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        build(make=lambda: [(np.array([0, 10]), 1)], vocab_size=10)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        build(make=lambda: [(np.array([-1, 3]), 1)], vocab_size=10)


@pytest.mark.parametrize("make", [lambda: [], lambda: [(np.zeros(0, np.int32), 0)], lambda: [(np.array([1]), 1)]])
def test_nothing_to_predict_is_an_error(own_cache, make):
    with pytest.raises(UserError, match="at least 2 tokens"):
        build(make=make)


def damage_truncate(path):
    os.truncate(path / "tokens.bin", 3)


def damage_remove(path):
    (path / "offsets.bin").unlink()


def damage_manifest(path):
    (path / "manifest.json").write_text("{")


def damage_other_version(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 0}))


@pytest.mark.parametrize("damage", [damage_truncate, damage_remove, damage_manifest, damage_other_version])
def test_damaged_cache_is_rebuilt_and_said_in_one_line(own_cache, damage):
    first = build()
    damage(own_cache / first.key)
    lines = []
    again = build(progress=lines.append)
    assert again.tokens.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert len([line for line in lines if "cannot be used" in line]) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_clear_error_and_leaves_nothing(own_cache, code):
    def full():
        yield np.arange(5), 5
        raise OSError(code, os.strerror(code))

    with pytest.raises(UserError, match="DECODER_LAB_CACHE") as caught:
        build(make=full)
    assert "\n" not in str(caught.value)
    assert [p.name for p in own_cache.iterdir() if p.is_dir()] == []
    assert build().num_tokens == 8


def test_disk_that_fills_up_at_the_flush(own_cache, monkeypatch):
    """Where blocks are reserved late, it is fsync that reports the full disk."""

    def fail(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        build()
    monkeypatch.undo()
    assert [p for p in runtime.cache_directory().glob("tokens-*.tmp-*")] == []


def test_interrupt_leaves_nothing(own_cache):
    def interrupted():
        yield np.arange(5), 5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(make=interrupted)
    assert [p.name for p in own_cache.iterdir() if p.is_dir()] == []


CHILD = """
import sys, time, numpy as np
from decoder_lab.data import cache
def documents():
    print("started", flush=True)
    for i in range(int(sys.argv[1])):
        time.sleep(0.05)
        yield np.full(1000, i), 1000
t = cache.token_cache(dict(source="child"), documents, lambda: 1, 100, "child", lambda line: print(line, flush=True))
print("sum", int(t.tokens.astype(int).sum()), t.num_documents, flush=True)
"""


def child(cache_directory, num_documents):
    environment = {**os.environ, "DECODER_LAB_CACHE": str(cache_directory), "PYTHONPATH": os.getcwd()}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(num_documents)], env=environment, stdout=subprocess.PIPE, text=True)


def test_kill_9_in_the_middle_leaves_nothing_believed(own_cache):
    process = child(own_cache, 200)
    assert process.stdout.readline() == "started\n"
    time.sleep(0.15)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(own_cache.glob("*.tmp-*"))  # it died at work
    finished = child(own_cache, 3)
    output, _ = finished.communicate(timeout=60)
    assert "started" in output and f"sum {1000 * (0 + 1 + 2)} 3" in output
    assert not list(own_cache.glob("*.tmp-*"))


def test_two_processes_at_once_do_the_work_once(own_cache):
    both = [child(own_cache, 12) for _ in range(2)]
    outputs = [p.communicate(timeout=60)[0] for p in both]
    assert all(f"sum {1000 * sum(range(12))} 12" in output for output in outputs)
    assert sum("started" in output for output in outputs) == 1


def test_directory_that_cannot_be_made_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DECODER_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot be written.*DECODER_LAB_CACHE"):
        build()


def test_refused_write_is_one_clear_error(own_cache, monkeypatch):
    """Also as root, whom permissions do not stop: the refusal is simulated."""

    def refuse(*args, dir=None, **kw):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(cache.tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match="Read-only file system.*DECODER_LAB_CACHE"):
        build()


def test_complete_cache_may_be_read_only(own_cache):
    first = build()
    own_cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert build().key == first.key
    finally:
        own_cache.chmod(stat.S_IRWXU)


def test_errors_of_the_source_are_not_blamed_on_the_cache(own_cache, tmp_path):
    with pytest.raises(FileNotFoundError):
        build(make=lambda: [(np.fromfile(tmp_path / "none"), 1)])


def test_long_builds_say_how_far_they_are(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "PROGRESS_SECONDS", 0.0)
    lines = []
    build(progress=lines.append)
    assert "1 of 2 documents" in lines[0] and "left" in lines[0] and "8 tokens" in lines[-1]


def test_default_directory(monkeypatch):
    monkeypatch.delenv("DECODER_LAB_CACHE")
    assert str(runtime.cache_directory()).endswith(".cache/decoder_lab")
