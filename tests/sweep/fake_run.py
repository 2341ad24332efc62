"""Stands for a run where the sweep itself is tested: takes steps, writes numbers, saves, stops by SIGTERM and goes on, as the lab's do.

fake_run.py WORKDIR STEPS SECONDS_A_STEP LOSS KIND; KIND is "good" or "bad" (fails after its second step).
"""

import json
import os
import pathlib
import signal
import sys
import time


def main(workdir, steps, seconds, loss, kind):
    stopping, began = [], time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "ended.json").unlink(missing_ok=True)
    saved = workdir / "checkpoints"
    step = max((int(path.name) for path in saved.glob("*")), default=0)
    metrics = workdir / "metrics.jsonl"
    if metrics.exists():
        kept = [line for line in metrics.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
        write(metrics, "".join(kept))
    with open(workdir / "starts", "a") as f:
        f.write(f"{step} {os.environ.get('NPROC', '')}\n")
    (workdir / "directory").write_text(os.getcwd())
    while step < int(steps) and not stopping:
        time.sleep(float(seconds))
        step += 1
        with open(metrics, "a") as f:
            f.write(json.dumps({"step": step, "val/loss": float(loss) + 1 / step, "train/lr": 1.0}) + "\n")
        with open(workdir / "steps", "a") as f:
            f.write(f"{step}\n")
        (saved / str(step)).mkdir(parents=True)
        if kind == "bad" and step == 2:
            print("error: no room on this device")
            return 2
    code = 0 if step == int(steps) else 75
    write(workdir / "own_seconds", str(time.monotonic() - began))
    write(workdir / "ended.json", json.dumps({"exit_code": code}))
    return code


def write(path, text):
    path.with_name("." + path.name).write_text(text)
    path.with_name("." + path.name).replace(path)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
