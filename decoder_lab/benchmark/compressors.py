"""Bits per byte of classic compressors on a run's held-out text: the floor that a language model must beat.

python -m decoder_lab.benchmark.compressors --workdir=runs/quickstart
"""

import argparse
import json
import lzma
import pathlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zlib, level 9": lambda data: zlib.compress(data, 9),
    "lzma": lzma.compress,
}


def texts(config: Any, split: str) -> list[bytes]:
    """The raw UTF-8 documents of one split of a config's source."""
    source = lookup.find("source", config.data.source.name)(split=split, **config.data.source.kw.to_dict())
    field = config.task.kw.text_field
    return [source[i][field].encode() for i in range(len(source))]


def bits_per_byte(documents: list[bytes], compress: Callable[[bytes], bytes]) -> tuple[float, float]:
    """Returns bits per byte with each document compressed on its own, and with all of them as one stream."""
    size = sum(map(len, documents))
    apart = sum(len(compress(d)) for d in documents)
    return 8 * apart / size, 8 * len(compress(b"".join(documents))) / size


def main(argv: list[str]) -> None:
    """Prints a line for each compressor."""
    parser = argparse.ArgumentParser("python -m decoder_lab.benchmark.compressors", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--split", default="validation")
    flags = parser.parse_args(argv)
    saved = flags.workdir / "config.json"
    if not saved.is_file():
        raise UserError(f"--workdir: expected the folder of a run (with a config.json), got {flags.workdir}.")
    documents = texts(config_lib.resolve(json.loads(saved.read_text()), spec=str(saved)), flags.split)
    print(f"{flags.split}: {len(documents)} documents, {sum(map(len, documents)):,} bytes")
    for name, compress in COMPRESSORS.items():
        apart, together = bits_per_byte(documents, compress)
        print(f"{name}: {apart:.3f} bits per byte file by file, {together:.3f} as one stream")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
