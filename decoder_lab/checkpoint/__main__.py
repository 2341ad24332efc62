"""python -m decoder_lab.checkpoint inspect PATH: what lies in a run, a checkpoint or a directory of weights."""

import argparse
import pathlib
import sys

from decoder_lab.checkpoint import inspect
from decoder_lab.core.errors import UserError


def main(argv: list[str]) -> int:
    """Prints the tree of a path; returns the exit code."""
    parser = argparse.ArgumentParser("python -m decoder_lab.checkpoint", description=__doc__)
    parser.add_argument("command", choices=["inspect"])
    parser.add_argument("path", type=pathlib.Path, help="a run, a checkpoint, a .safetensors file, or a directory with such")
    parser.add_argument("--checkpoint", default="latest", help='of a run: "latest" or a step (default: latest)')
    parser.add_argument("--all", action="store_true", help="a line for every layer")
    flags = parser.parse_args(argv)
    try:
        print(inspect.described(flags.path, flags.checkpoint, flags.all))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
