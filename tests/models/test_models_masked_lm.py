"""The encoder with the head of BERT: published sizes, logits of some places only, parameters that other models can begin from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.models.masked_lm import VARIANTS, Model

pytestmark = pytest.mark.usefixtures("strict_numerics")
ENCODER = dict(name="transformer", kw=dict(num_layers=1, num_heads=2, width=8, num_types=2, init_stddev=0.4))
X = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 6)), jnp.int32)
COUNTS = {
    "bert-tiny": 4_416_698,
    "bert-mini": 11_201_594,
    "bert-small": 28_795_194,
    "bert-medium": 41_404_730,
    "bert-base": 109_514_298,
    "bert-large": 335_174_458,
    "minilm-l6": 22_744_506,
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_parameter_counts_of_the_published_sizes(variant):
    encoder = dict(name="transformer", kw=dict(variant=variant, scan_layers=True))
    assert VARIANTS[variant]["encoder"]["kw"] == dict(variant=variant)
    model = Model(30522, 512, jnp.float32, encoder=encoder)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS[variant]


@pytest.mark.parametrize(
    "encoder", [ENCODER, dict(name="recurrent", kw=dict(width=8)), dict(name="convolutional", kw={})], ids=lambda e: e["name"]
)
def test_logits_of_places_are_those_of_the_whole(encoder):
    model = Model(11, 16, jnp.float32, encoder=encoder)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    whole = model.apply(variables, X)
    assert whole.shape == (2, 6, 11) and whole.dtype == jnp.float32
    places = jnp.asarray([[5, 0], [2, 2]])
    np.testing.assert_allclose(
        model.apply(variables, X, places_BK=places), jnp.take_along_axis(whole, places[:, :, None], axis=1), atol=1e-6
    )


def test_the_head_shares_the_encoders_table_and_a_classifier_finds_the_encoder():
    model = Model(11, 16, jnp.float32, encoder=ENCODER)
    params = jax.jit(model.init)(jax.random.key(0), X)["params"]
    assert set(params) == {"encoder", "transform", "transform_norm", "logits_bias"}
    classifier = lookup.find("model", "classifier")(vocab_size=11, num_labels=2, max_length=16, dtype=jnp.float32, encoder=ENCODER)
    other = jax.jit(classifier.init)(jax.random.key(1), X)["params"]
    assert jax.tree.map(jnp.shape, other["encoder"]) == jax.tree.map(jnp.shape, params["encoder"])
