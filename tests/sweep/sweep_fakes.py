"""A sweep whose runs are `fake_run.py`: what is tested is the sweep. Run as a program it is one, for tests that kill it."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from decoder_lab.sweep import __main__ as program  # noqa: E402

CONFIG = """
def get_config():
    return dict(total_steps={steps}, batch_size=8, sequence_length=16)
"""


def config_file(folder, steps=4, sweep=""):
    """Writes a config, with a `sweep()` if its body is given; returns its path."""
    path = folder / "fake.py"
    declared = f"\nfrom decoder_lab.sweep.algebra import *\ndef sweep():\n    return {sweep}\n" if sweep else ""
    path.write_text(CONFIG.format(steps=steps) + declared)
    return path


def command(seconds=0.0):
    """Returns what makes a run's program; the loss is the learning rate, and a weight decay above 1 makes it fail."""

    def made(folder, record):
        settings = dict(text.split("=", 1) for text in record.overrides)
        kind = "bad" if float(settings.get("weight_decay", 0)) > 1 else "good"
        loss = settings.get("lr", "1.0")
        steps = settings.get("total_steps", record.total_steps)
        arguments = [folder.workdir(record.name), steps, seconds, loss, kind]
        return [sys.executable, "-S", "-E", str(HERE / "fake_run.py"), *map(str, arguments)]

    return made


def sweep(*arguments, seconds=0.0):
    """The program in this process, with fake runs; returns its exit code."""
    return program.main([str(a) for a in arguments], command(seconds))


if __name__ == "__main__":
    sys.exit(sweep(*sys.argv[2:], seconds=float(sys.argv[1])))
