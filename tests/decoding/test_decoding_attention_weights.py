"""Attention weights on their way to a report."""

import json

import numpy as np

from decoder_lab.decoding import attention_weights
from decoder_lab.report import kinds


def test_weights_of_a_model_that_diverged_are_valid_json():
    weights_NTS = np.float32([[[1, 0], [1 / 3, 2 / 3]], [[np.nan, np.nan], [0.5, 0.5]]])
    found = attention_weights.detail([("layer_0", weights_NTS)], ["a", "b"], ["a", "b"], "a b", digits=2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found and kinds.problem(found) is None
    assert found["layers"] == [{"name": "layer_0", "heads": [[[1.0, 0.0], [0.33, 0.67]], [["nan", "nan"], [0.5, 0.5]]]}]
