"""Numbers are readable at every size: never "0.0 MB"."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoder_lab.core import units


@pytest.mark.parametrize(
    "num_bytes, text",
    [
        (0, "0 B"),
        (300, "300 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (12_900, "12.9 kB"),
        (3_216_384, "3.22 MB"),
        (80e9, "80 GB"),
        (2e18, "2e+03 PB"),
    ],
)
def test_sizes(num_bytes, text):
    assert units.size(num_bytes) == text


@given(st.integers(min_value=1, max_value=10**17))
def test_a_size_read_back_is_the_size_to_three_digits(num_bytes):
    number, prefix = re.fullmatch(r"([\d.]+) (\w?)B", units.size(num_bytes)).groups()
    assert float(number) * 1000 ** units.PREFIXES.index(prefix) == pytest.approx(num_bytes, rel=5.1e-3)
    assert float(number) >= 1
