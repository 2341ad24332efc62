"""What a layer computes in pieces is what it computes whole, also where an adapter stands around it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup, tree
from decoder_lab.parallel import activations
from decoder_lab.parallel import layout as layouts
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training.adaptation import Adaptation

V, B, T, P = 16, 4, 6, 2
TOKENS = np.random.default_rng(0).integers(0, V, (B, T)).astype(np.int32)
MODEL = dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16, tie_embeddings=False))
ADAPTERS = {
    "lora": dict(name="lora", kw=dict(rank=2, targets=("",))),  # every linear map, the unembedding too
    "prompt": dict(name="prompt", kw=dict(num_tokens=P)),
}


class Task:
    def dummy(self):
        return {"tokens": TOKENS[:1]}

    def forward(self, model, batch, deterministic):
        return model(batch["tokens"], deterministic=deterministic)[0]


@functools.cache
def computed(method, num_devices, **sizes):
    """Returns (logits, gradients, logits of the model by itself), on a mesh of so many devices."""
    adapter, task = lookup.make("adapter", ADAPTERS[method]), Task()
    model = lookup.make("model", MODEL, vocab_size=V, max_length=T + getattr(adapter, "lengthens", 0), dtype=jnp.float32)
    adapted = Adaptation(adapter, model, task, jax.random.key(0))
    leaves = [0.3 * np.random.default_rng(i).standard_normal(x.shape) for i, x in enumerate(jax.tree.leaves(adapted.shapes))]
    params = jax.tree.unflatten(jax.tree.structure(adapted.shapes), [x.astype(np.float32) for x in leaves])
    layout = layouts.Layout(meshes.make_mesh(jax.devices()[:num_devices], sizes={"data": 1, **sizes}))

    def run(params):
        def total(params, model):
            logits = model.apply({"params": params}, {"tokens": TOKENS}, True, method=task.forward)
            return jnp.mean(jnp.square(logits)), logits

        grads, logits = jax.grad(total, has_aux=True)(params, adapted.model)
        return logits, grads, total(params, model)[1]

    return jax.jit(activations.laid_out(run, layout))(jax.device_put(params, layout.of_params(params)))


@pytest.mark.parametrize("method", list(ADAPTERS))
@pytest.mark.parametrize("axis", ["tensor", "fsdp"])
def test_an_adapter_does_on_every_mesh_what_it_does_on_one_device(method, axis):
    """KNOWN_BUGS 2: the unembedding and the table of tokens are computed in pieces, inside what the adapter makes of them."""
    logits, grads, plain = computed(method, 2, **{axis: 2})
    expected = computed(method, 1)
    assert np.abs(expected[0] - expected[2]).max() > 0.1, "the adapter does something"
    np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain, expected[2], rtol=1e-4, atol=1e-5)
    added = [path for path in tree.flatten(grads) if "lora" in path or "prompt" in path]
    assert (method == "prompt") or any("unembedding" in path for path in added)
    for path in added:
        np.testing.assert_allclose(tree.flatten(grads)[path], tree.flatten(expected[1])[path], rtol=1e-3, atol=1e-5, err_msg=path)
        assert np.any(tree.flatten(grads)[path]), path
