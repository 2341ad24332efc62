"""What is wrong with a run's folder is said before time is spent, and a run keeps its order of examples on fewer devices."""

import json
import subprocess

import jax.numpy as jnp
import pytest

from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.training import folder, resume


@pytest.fixture
def config():
    return config_lib.resolve(dict(total_steps=3, data=dict(source=dict(name="text", kw=dict(train="a", validation="b")))))


def test_another_config_is_refused_but_another_machine_is_not(config, tmp_path, capsys):
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    changed = config_lib.resolve(json.loads(config_lib.to_json(config)), ["lr=0.5"])
    with pytest.raises(UserError, match="begun with another config"):
        folder.refuse_other_config(changed, tmp_path, False)
    folder.refuse_other_config(changed, tmp_path, True)
    other = config_lib.resolve(json.loads(config_lib.to_json(config)), ["mesh.fsdp=2"])
    capsys.readouterr()
    folder.refuse_other_config(other, tmp_path, False)
    assert "mesh.fsdp: 1 -> 2" in capsys.readouterr().out


def test_checkpoints_that_cannot_be_read_or_written_are_named_at_once(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="checkpoints cannot be read: Not a directory"):
        folder.make_ready(tmp_path)
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "checkpoints").mkdir()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match="checkpoints cannot be written to: Permission denied"):
        folder.make_ready(tmp_path)


def test_what_nothing_depends_on_yet_is_made_anew(tmp_path):
    for name in ("tokenizer", "source_tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "task.json").write_text("{}")
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    folder.make_ready(tmp_path)
    assert (tmp_path / "tokenizer").is_dir() and (tmp_path / "task.json").is_file()  # the checkpoint does
    (tmp_path / "checkpoints" / "4").rmdir()
    folder.make_ready(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_a_disk_that_is_really_full_leaves_the_checkpoint_before(tmp_path):
    """A file system of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a file system")
    try:
        said = []
        saver = Saver(tmp_path / "checkpoints", keep=2, report=said.append)
        small = {"params": {"w": jnp.arange(8.0)}}
        saver.save(1, small, {}, wait=True)
        (tmp_path / "other").write_bytes(bytes(900_000))
        with pytest.raises(UserError, match="checkpoint 2 .* could not be saved.*No space left.*Older checkpoints are intact"):
            saver.save(2, {"params": {"w": jnp.arange(80_000.0) ** 1.5}}, {}, wait=True)
        assert len(said) == 1 and saver.steps() == [1] and saver.restore(small)[2] == 1
        (tmp_path / "other").unlink()
        saver.save(3, small, {}, wait=True)
        assert saver.steps() == [1, 3]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_fewer_devices_keep_the_batches_that_a_run_began_with(tmp_path):
    """Rows of a bucket are a multiple of the devices: of how many there were, as long as those that there are divide it."""
    assert resume.rows_multiple(tmp_path, 4) == 4
    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        saver.save(1, {"params": jnp.ones(1)}, {"multiple": 8}, wait=True)
        saver.save(2, {"params": jnp.ones(1)}, {"multiple": 8}, wait=True)
    (tmp_path / "checkpoints" / "2" / "checkpoint.json").write_text("{")  # a damaged one is passed over
    assert [resume.rows_multiple(tmp_path, devices) for devices in (1, 2, 4, 8, 16, 3)] == [8, 8, 8, 8, 16, 3]
