"""Every family computes what transformers computes, from the same files."""

import cases
import numpy as np
import pytest
import tiny

from decoder_lab.interop.directory import Directory

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", tiny.CASES)
def test_outputs_equal_those_of_transformers(name, tmp_path):
    """Padded, and packed with another document into one row; the reference numbers are those of `reference.py fixtures`."""
    directory, inputs = Directory(cases.write(name, tmp_path)), tiny.inputs(name)
    got, wanted = cases.outputs(name, directory, cases.loaded(directory), cases.with_packed(inputs)), cases.expected()[name]
    assert not directory.left_out and np.abs(wanted).max() > 0.1
    if wanted.shape[:2] != inputs["segments"].shape:  # one output a text
        np.testing.assert_allclose(got[:2], wanted, rtol=0, atol=TOLERANCE)
        return
    documents = [row[segments == 1] for row, segments in zip(wanted, inputs["segments"], strict=True)]
    for row, document in enumerate(documents):
        np.testing.assert_allclose(got[row, : len(document)], document, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(got[2], np.concatenate(documents), rtol=0, atol=TOLERANCE)
