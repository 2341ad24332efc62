"""What LoRA gains over training everything, ours and peft's on torch, in tokens a second and in memory; interleaved in one run.

python -m decoder_lab.benchmark.adapting --size=gpt2 --peer_python=/path/to/python/with/peft --output=adapting.json

Each method of each side is a process of its own, whose peak of memory (resident, compilation included) is that method's; they wait while
another is measured. Every round measures each once; of each round's pairs the median of the ratios is given.
"""

import argparse
import json
import pathlib
import platform
import statistics
import sys
import time
from typing import Any

from decoder_lab.benchmark.protocol import Side
from decoder_lab.benchmark.shapes import SHAPES

METHODS = ("full", "lora")


def measure(sides: dict[tuple[str, str], Side], kw: dict[str, Any], rounds: int, steps: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns {(side, method): {"name", "runs": seconds a step in each round, "peak_bytes"}}; the first step of each is not counted."""
    found = {}
    for (side, method), process in sides.items():
        about = process.ask(prepare="adapting", kw=dict(kw, method=method))
        process.ask(count=1)
        found[side, method] = {"name": about["name"], "runs": []}
    for _ in range(rounds):
        for key, process in sides.items():
            answer = process.ask(count=steps)
            found[key]["runs"].append(answer["seconds"] / steps)
            found[key]["peak_bytes"] = answer["peak_bytes"]
    return found


def lines(found: dict[tuple[str, str], dict[str, Any]], tokens: int) -> list[str]:
    """Returns a Markdown table, a side and method a line; `tokens`: of one step."""
    rows = ["| | full, tokens/s | LoRA, tokens/s | LoRA / full (min-max) | full, peak GB | LoRA, peak GB |", "|---|---|---|---|---|---|"]
    for side in dict.fromkeys(side for side, _ in found):
        full, lora = (found[side, method] for method in METHODS)
        ratios = [a / b for a, b in zip(full["runs"], lora["runs"], strict=True)]
        speeds = [f"{tokens / statistics.median(each['runs']):,.0f}" for each in (full, lora)]
        memory = [f"{each['peak_bytes'] / 1e9:.2f}" for each in (full, lora)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append(f"| {side}: {full['name']} | {' | '.join(speeds)} | {ratio} | {' | '.join(memory)} |")
    return rows


def main(argv: list[str]) -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser("python -m decoder_lab.benchmark.adapting", description=__doc__)
    parser.add_argument("--size", default="gpt2", choices=SHAPES)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--peer_python", default="", help="an interpreter with torch, transformers and peft; empty: decoder_lab alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="optimiser steps a round")
    parser.add_argument("--output", type=pathlib.Path)
    flags = parser.parse_args(argv)
    pythons = {"ours": sys.executable} | ({"peft": flags.peer_python} if flags.peer_python else {})
    modules = {"ours": "decoder_lab.benchmark.ours", "peft": "decoder_lab.benchmark.peer"}
    sides = {(side, method): Side(python, modules[side]) for side, python in pythons.items() for method in METHODS}
    found = measure(sides, dict(size=flags.size, dtype=flags.dtype), flags.rounds, flags.steps)
    for process in sides.values():
        process.close()
    shape = SHAPES[flags.size]
    print("\n".join(lines(found, shape.batch_size * shape.length)))
    if flags.output:
        about = dict(date=time.strftime("%Y-%m-%d"), machine=platform.processor() or platform.machine(), flags=argv)
        results = [dict(side=side, method=method, **record) for (side, method), record in found.items()]
        flags.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
