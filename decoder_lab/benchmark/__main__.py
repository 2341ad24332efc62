"""Times training and generation of decoder_lab, alone or beside Hugging Face's GPT-2 on torch, interleaved in one run.

Also how fast batches are made (`--what=input`) and states are saved and restored (`--what=checkpoint`).

python -m decoder_lab.benchmark --sizes=small,medium,gpt2 --peer_python=/path/to/python/with/torch --output=benchmark.json

Each measurement is repeated in turn, ours, theirs, ours, theirs, ...: a ratio is taken pair by pair and the median of the ratios is given,
so that a machine whose speed drifts does not favour a side. "of peak" is MFU where a model is trained, and where one text is written the
share of the device's memory bandwidth that reading the weights for every token takes; both by the device's data sheet.
"""

import argparse
import json
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

from decoder_lab.benchmark.protocol import Side
from decoder_lab.benchmark.shapes import SHAPES
from decoder_lab.core import chips, clock
from decoder_lab.core.errors import UserError, unknown

GENERATION = {
    "greedy, batch 1": dict(batch_size=1, beam=1),
    "greedy, batch 8": dict(batch_size=8, beam=1),
    "beam 4": dict(batch_size=1, beam=4),
}

INPUT = {"documents": dict(packing="documents"), "split": dict(packing="split")}
CHECKPOINT = {what: dict(what=what) for what in ("save", "blocked", "restore")}
WHATS = ("training", "generation", "input", "checkpoint")
UNITS = {"checkpoint": ("MB/s", 1e6)}  # kind -> what a second brings, and how much of a run's size that is
BOTH = ("training", "generation")  # what the peer does too


def chosen(flag: str, text: str, known: Iterable[str]) -> list[str]:
    """Returns the comma-separated names of a flag. Errors: UserError for one that is not among the `known`, or for none at all."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"{flag}: expected at least one of {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise UserError(unknown(flag, name, known))
    return names


def jobs(sizes: list[str], whats: list[str], dtype: str) -> list[tuple[str, str, str, dict, int]]:
    """Returns (label, kind, size, arguments, tokens a run; 0: the measured process says) of everything to measure."""
    found = []
    for size in sizes:
        shape = SHAPES[size]
        if "training" in whats:
            found.append((f"{size} training", "training", size, dict(size=size, dtype=dtype), shape.batch_size * shape.length))
        if "generation" in whats:
            for name, kw in GENERATION.items():
                found.append((f"{size} {name}", "generation", size, dict(size=size, dtype=dtype, **kw), 128 * kw["batch_size"]))
        for kind, named in (("input", INPUT), ("checkpoint", CHECKPOINT)):
            if kind in whats:
                found += [(f"{size} {kind}, {name}", kind, size, dict(size=size, **kw), 0) for name, kw in named.items()]
    return found


def measure(sides: list[Side], kind: str, kw: dict, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Returns for each side what it says about itself, the seconds of its first run (compilation included) and of one run in each round,
    and the most memory that it had."""
    found = []
    for side in sides:
        began = time.perf_counter()
        about = side.ask(prepare=kind, kw=kw)
        side.ask(count=1)
        found.append({**about, "first": time.perf_counter() - began, "runs": []})
    counts = [max(1, round(seconds / max(side.ask(count=1)["seconds"], 1e-4))) for side in sides]
    for _ in range(rounds):
        for side, count, record in zip(sides, counts, found, strict=True):
            answer = side.ask(count=count)
            record["runs"].append(answer["seconds"] / count)
            record["peak_bytes"] = answer["peak_bytes"]
    return found


def main(argv: list[str]) -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(
        "python -m decoder_lab.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="small,medium", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--what", default=",".join(BOTH), help=f"of {', '.join(WHATS)}")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--peer_python", default="", help="an interpreter with torch and transformers; empty: measure decoder_lab alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long one round of one side lasts, about")
    parser.add_argument(
        "--peak_tflops", type=float, default=0.0, help="the device's peak, for model FLOPs utilisation; 0: by its data sheet"
    )
    parser.add_argument("--output", type=pathlib.Path)
    flags = parser.parse_args(argv)
    todo = jobs(chosen("--sizes", flags.sizes, SHAPES), chosen("--what", flags.what, WHATS), flags.dtype)
    table = []
    print(f"{'':30} {'tokens/s':>17} {'peer tokens/s':>14} {'ratio':>6} {'(min-max)':>13} {'first run':>10} {'peak GB':>12} {'of peak':>7}")
    for label, kind, size, kw, tokens in todo:
        sides = [Side(sys.executable, "decoder_lab.benchmark.ours")]
        if flags.peer_python and kind in BOTH:
            sides.append(Side(flags.peer_python, "decoder_lab.benchmark.peer"))
        found = measure(sides, kind, kw, flags.rounds, flags.seconds)
        for side in sides:
            side.close()
        table.append(_row(label, kind, size, tokens, found, flags.peak_tflops * 1e12, kw))
    if flags.output:
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "python": platform.python_version(),
            "machine": platform.processor() or platform.machine(),
        }
        flags.output.write_text(json.dumps({**about, "flags": argv, "results": table}, indent=1) + "\n")


def _row(label: str, kind: str, size: str, amount: int, found: list[dict], peak: float, kw: dict) -> dict[str, Any]:
    """Returns what was measured of a job with arguments `kw`, and prints it.

    `amount` of a run, in tokens (or bytes: `UNITS`); 0: as the measured process said.
    """
    unit, scale = UNITS.get(kind, ("tokens/s", 1))
    amount = (amount or found[0]["size"]) / scale
    speed = amount / statistics.median(found[0]["runs"])
    row = {"what": label, "unit": unit, "per_second": speed, "first_run_seconds": found[0]["first"], "name": found[0]["name"]}
    row["peak_bytes"] = [record["peak_bytes"] for record in found]
    ratio = ""
    if len(found) > 1:
        ratios = [b / a for a, b in zip(found[0]["runs"], found[1]["runs"], strict=True)]
        theirs = amount / statistics.median(found[1]["runs"])
        row |= {"peer": found[1]["name"], "peer_per_second": theirs, "ratio": statistics.median(ratios), "ratios": ratios}
        ratio = f"{theirs:14,.0f} {row['ratio']:6.2f} {min(ratios):6.2f}-{max(ratios):.2f}"
    peak = peak or clock.peak_flops(found[0]["device_kind"], 1)  # one device is measured
    if peak and kind == "training":
        row["mfu"] = speed * SHAPES[size].flops_per_token / peak
    chip = chips.find(found[0]["device_kind"])
    if chip and kind == "generation" and kw["batch_size"] == kw["beam"] == 1:
        row["bandwidth"] = speed * SHAPES[size].weights_per_token * (2 if kw["dtype"] == "bfloat16" else 4) / chip.bandwidth
    share = row.get("mfu", row.get("bandwidth"))
    shown_share = "-" if share is None else f"{share:.1%}"
    memory = " / ".join(f"{number / 1e9:.2f}" for number in row["peak_bytes"])
    shown = f"{speed:,.0f}" + ("" if unit == "tokens/s" else f" {unit}")
    print(f"{label:30} {shown:>17} {ratio:>35} {found[0]['first']:9.1f}s {memory:>12} {shown_share:>7}", flush=True)
    return row


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
