"""Bits per byte of compressors, against sizes known beforehand."""

import zlib

from decoder_lab.benchmark import compressors


def test_bits_per_byte():
    documents = [b"a" * 1000, bytes(range(256)) * 4]
    apart, together = compressors.bits_per_byte(documents, lambda data: zlib.compress(data, 9))
    size = sum(map(len, documents))
    assert apart == 8 * sum(len(zlib.compress(d, 9)) for d in documents) / size
    assert together < apart
    assert compressors.bits_per_byte(documents, lambda data: data) == (8.0, 8.0)
