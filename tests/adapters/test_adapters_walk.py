"""Every method on every kind of model: what is trained, where it begins, that it learns, and that merged weights compute the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.adapters.places import of_kind
from decoder_lab.core import lookup, tree
from decoder_lab.core.errors import UserError
from decoder_lab.layers.tagging import tag_losses
from decoder_lab.training import step as steps
from decoder_lab.training.adaptation import Adaptation

V, B, T = 13, 2, 6
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (B, T)).astype(np.int32)
SEGMENTS = np.array([[1] * T, [1] * (T - 2) + [0, 0]], np.int32)
WORDS = {"starts_BW": np.array([[0, 2, 4], [0, 1, 3]], np.int32), "words_BW": np.array([[1, 1, 1], [1, 1, 0]], np.int32)}
TRANSFORMER = dict(name="transformer", kw=dict(num_layers=2, num_heads=2, width=8, mlp_dim=12))
RNN = dict(name="recurrent", kw=dict(cell="gru", width=6))
BIRNN = dict(name="recurrent", kw=dict(width=6, bidirectional=True))
MODELS = {
    "transformer_lm": dict(
        name="decoder_only", kw=dict(num_layers=1, num_heads=2, num_kv_heads=1, width=8, position="rotary", mlp="swiglu")
    ),
    "rnn_lm": dict(name="recurrent_lm", kw=dict(cell="gru", width=6, num_layers=2)),
    "rnn_seq2seq": dict(
        name="encoder_decoder",
        kw=dict(encoder=RNN, decoder=dict(name="recurrent", kw=dict(cell="gru", width=6, attention="additive", context_input=True))),
    ),
    "transformer_seq2seq": dict(name="encoder_decoder", kw=dict(encoder=TRANSFORMER, decoder=TRANSFORMER)),
    "cnn_classifier": dict(
        name="classifier", kw=dict(encoder=dict(name="convolutional", kw=dict(widths=(2, 3), filters=6, embedding_dim=5)), pooling="max")
    ),
    "transformer_classifier": dict(name="classifier", kw=dict(encoder=TRANSFORMER)),
    "crf_tagger": dict(name="tagger", kw=dict(encoder=BIRNN, crf=True)),
}
METHODS = {
    "lora": dict(rank=2, alpha=4.0),
    "dora": dict(rank=2),
    "adalora": dict(rank=3, target_rank=2),
    "bottleneck": dict(width=3),
    "ia3": {},
    "prompt": dict(num_tokens=2),
    "prefix": dict(num_tokens=2),
}
PLAIN = {  # methods that add nothing
    "bitfit": {},
    "freeze": dict(train=("bias$",)),
    "full": dict(layer_decay=0.5),
}
COMPUTED = {  # every method on a Transformer, and on the others what goes another way there; the rest of the pairs is slow
    "transformer_lm": " ".join(METHODS),
    "rnn_lm": "lora dora bottleneck ia3",
    "rnn_seq2seq": "lora bottleneck prompt prefix",
    "transformer_seq2seq": "",
    "cnn_classifier": "lora bottleneck ia3",
    "transformer_classifier": "lora prompt",
    "crf_tagger": "adalora prefix",
}
NOWHERE = [("cnn_classifier", "prefix")]
PAIRS = [
    pytest.param(name, method, marks=[] if method in COMPUTED[name].split() else pytest.mark.slow)
    for name in MODELS
    for method in METHODS
    if (name, method) not in NOWHERE
]
CHANGES_AT_ONCE = ("prompt", "prefix")  # what they put before a text changes it from the beginning


compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Task:
    """Calls a model of MODELS in its way."""

    def __init__(self, name):
        self.name = name

    def dummy(self):
        return {"tokens": TOKENS, "segments": SEGMENTS}

    def forward(self, model, batch, deterministic):
        tokens, segments = batch["tokens"], batch["segments"]
        if self.name.endswith("_lm"):
            return model(tokens, segments_BT=segments, deterministic=deterministic)[0]
        if self.name.endswith("seq2seq"):
            given = dict(source_BS=tokens[:, ::-1], source_segments_BS=segments[:, ::-1])
            return model(tokens, segments_BT=segments, **given, deterministic=deterministic)[0]
        if self.name.endswith("tagger"):
            scores = model(tokens, segments_BS=segments, **WORDS, deterministic=deterministic)
            return tag_losses(scores, WORDS["words_BW"], WORDS["words_BW"])  # tag 1 everywhere; through the CRF
        return model(tokens, segments_BS=segments, deterministic=deterministic)


@functools.cache
def plain_adaptation(name):
    sizes = dict(vocab_size=V, source_vocab_size=V, num_labels=3, char_vocab_size=5, max_length=T + 2, dtype=jnp.float32)
    return Adaptation(None, lookup.make("model", MODELS[name], **sizes), Task(name), jax.random.key(0))


@functools.cache
def base(name):
    """Returns (model, task, random parameters, compiled output, that output)."""
    adaptation, task = plain_adaptation(name), Task(name)
    model = adaptation.model
    leaves = jax.tree.leaves(adaptation.base_shapes)
    drawn = [0.4 * np.random.default_rng(i).standard_normal(x.shape).astype(np.float32) for i, x in enumerate(leaves)]
    params = jax.tree.unflatten(jax.tree.structure(adaptation.base_shapes), drawn)
    output = compiled(lambda params: output_of(model, task, params))
    return model, task, params, output, output(params)


def output_of(model, task, params):
    out = model.apply({"params": params}, task.dummy(), True, method=task.forward)
    return jnp.where(SEGMENTS[..., None] != 0, out, 0.0) if out.ndim == 3 and out.shape[1] == T else out


def adaptation_of(name, method, **kw):
    plain = plain_adaptation(name)
    adapter = lookup.make("adapter", dict(name=method, kw={**METHODS.get(method, {}), **kw}))
    found = Adaptation(adapter, plain.model, Task(name), jax.random.key(1))
    found.base_shapes, found.places = plain.base_shapes, plain.places  # the same for every method: not traced again
    return found


def adapted(name, method, **kw):
    adaptation = adaptation_of(name, method, **kw)
    return adaptation, adaptation.joined(base(name)[2])


@pytest.mark.parametrize("name", MODELS)
def test_every_method_finds_its_places_in_every_model(name):
    """By shapes: what is added is found and read, and what comes out has the shape that it had."""
    _, task, params, _, plain = base(name)
    for method in METHODS:
        adaptation = adaptation_of(name, method)
        if (name, method) in NOWHERE:
            with pytest.raises(UserError, match="self-attention .* and recurrent layers, and this model has none. It has: convolution"):
                _ = adaptation.shapes
            continue
        assert len(adaptation.added) > 0 and tree.flatten(adaptation.shapes).keys() == tree.flatten(params).keys() | adaptation.added
        assert jax.eval_shape(lambda params, model=adaptation.model: output_of(model, task, params), adaptation.shapes).shape == plain.shape


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_begins_as_the_model_learns_and_merges(name, method):
    _, task, params, plain_output, plain = base(name)
    adaptation, joined = adapted(name, method)
    trained, frozen = adaptation.split(joined)
    assert tree.flatten(trained).keys() == adaptation.trained and tree.flatten(frozen).keys().isdisjoint(adaptation.trained)
    pull = RNG.standard_normal(plain.shape).astype(np.float32)

    @compiled
    def run(trained, frozen):
        def loss(trained):
            out = output_of(adaptation.model, task, steps.joined(trained, frozen))
            return jnp.sum(out * pull), out

        return jax.grad(loss, has_aux=True)(trained)

    grads, out = run(trained, frozen)
    if method not in CHANGES_AT_ONCE:
        np.testing.assert_allclose(out, plain, atol=2e-6)
    gradients = tree.flatten(grads)
    assert all(np.isfinite(g).all() for g in gradients.values())
    assert any(np.abs(gradients[path]).max() > 0 for path in adaptation.added)
    moved = jax.tree.map(lambda x: x + 0.3 * RNG.standard_normal(x.shape).astype(np.float32), trained)
    grads, out = run(moved, frozen)
    for path, gradient in tree.flatten(grads).items():
        assert np.abs(gradient).max() > 0, f"{path} learns nothing"
    assert np.abs(out - plain).max() > 1e-2
    whole = steps.joined(moved, frozen)
    if method in ("bottleneck", *CHANGES_AT_ONCE) or (method == "ia3" and not name.startswith("transformer")):
        with pytest.raises(UserError, match=f"{method} cannot be merged"):
            adaptation.adapter.merge(whole)
        assert tree.flatten(adaptation.adapter.folded(whole)).keys() == tree.flatten(whole).keys()
        return
    merged = adaptation.adapter.merge(whole)
    assert tree.flatten(merged).keys() == tree.flatten(params).keys()
    np.testing.assert_allclose(plain_output(merged), out, atol=1e-4, rtol=1e-4)  # KNOWN_BUGS 15
    again = adaptation.adapter.unmerge(merged, whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), again, whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, *PLAIN, "lora int8"])
@pytest.mark.parametrize("name", MODELS)
def test_training_moves_what_is_trained_and_no_bit_of_the_rest(name, method):
    """Four steps with weight decay by the lab's own step, AdaLoRA's pruning in it: the rest has no optimiser state and stays as it was."""
    _, task, _, _, plain = base(name)
    method, _, quantize = method.partition(" ")
    kw = PLAIN.get(method, dict(rank=2, quantize=quantize) if quantize else {})
    if (name, method) in NOWHERE:
        return
    if quantize:
        pytest.importorskip("qwix", reason='needs the extra "quant"')
    adaptation, joined = adapted(name, method, **kw)
    if quantize and not set(of_linear(adaptation)) - adaptation.trained:
        with pytest.raises(UserError, match="no frozen kernel of a Linear layer"):
            adaptation.split(joined)
        return
    trained, frozen = adaptation.split(joined)
    optimizer, target = optax.adamw(1e-2, weight_decay=0.1), RNG.standard_normal(plain.shape).astype(np.float32)

    def metrics(params, batch, key):
        out = adaptation.model.apply({"params": params}, batch, True, method=task.forward)
        return {"loss": (jnp.sum(jnp.square(out - target)), jnp.float32(B))}

    hooks = steps.Hooks(adaptation.adapter, 4, lambda duration: 1)
    settings = dict(accumulate=1, ema=0.0, on_nonfinite="stop", adapter=hooks)
    step = compiled(steps.make_train_step(metrics, optimizer, lambda count: 1e-2, **settings))
    state = steps.init_state(trained, optimizer, 0, False).replace(frozen=frozen, adapter=adaptation.begin(trained))
    losses = []
    for _ in range(4):
        state, sums = step(state, task.dummy())
        losses.append(float(sums["loss"][0]))
    assert not state.halted and losses[-1] < losses[0]
    assert tree.flatten(state.opt_state[0].mu).keys() == adaptation.trained
    for path, leaf in tree.flatten(state.frozen).items():
        np.testing.assert_array_equal(leaf, tree.flatten(frozen)[path], err_msg=path)
    for path, leaf in tree.flatten(state.params).items():
        pruned = path.endswith("lora_lambda") and not np.any(leaf)  # all ranks of a kernel
        assert pruned or not np.array_equal(leaf, tree.flatten(trained)[path]), f"{path} did not move"
    if method == "adalora":
        ranks = [np.asarray(x) for path, x in tree.flatten(state.params).items() if path.endswith("lora_lambda")]
        assert sum(np.count_nonzero(x) for x in ranks) == sum(x.size for x in ranks) * 2 // 3  # of rank 3, target_rank 2


def of_linear(adaptation):
    """Paths of the kernels of Linear layers."""
    shapes = tree.flatten(adaptation.base_shapes)
    return [path for place in of_kind(adaptation.places.values(), "linear") if (path := place.leaf("kernel")) in shapes]


@pytest.mark.parametrize("name", MODELS)
def test_methods_that_add_nothing(name):
    params = tree.flatten(plain_adaptation(name).base_shapes)
    for method, kw, expected in (
        ("bitfit", {}, {path for path in params if path.endswith("bias")}),
        ("freeze", dict(train=("bias$",)), {path for path in params if path.endswith("bias")}),
        ("freeze", dict(frozen=("bias$",)), {path for path in params if not path.endswith("bias")}),
        ("full", dict(layer_decay=0.5), set(params)),
    ):
        adaptation = adaptation_of(name, method, train_heads=False, **kw)
        assert adaptation.trained == expected and tree.flatten(adaptation.shapes).keys() == params.keys()


def test_heads_are_trained_and_what_is_asked_for():
    adaptation = adaptation_of("crf_tagger", "lora", also_train=("token_embedding",))
    own = adaptation.trained - adaptation.added
    assert own == {f"crf_{name}" for name in ("between", "start", "end")} | {
        "emission/kernel",
        "emission/bias",
        "encoder/token_embedding/embedding",
    }
    with pytest.raises(UserError, match='also_train: "embeding" matches no parameter'):
        _ = adaptation_of("crf_tagger", "lora", also_train=("embeding",)).trained


def test_a_target_that_is_not_there_is_an_error_that_lists_what_is():
    """KNOWN_BUGS 15: an adapter that touches nothing."""
    with pytest.raises(UserError, match=r'adapt.kw.targets: "q_proj" matches no parameter(.|\n)*attention/query/kernel'):
        _ = adaptation_of("transformer_lm", "lora", targets=("q_proj",)).shapes
    with pytest.raises(UserError, match="rank 9 is no smaller than"):
        _ = adaptation_of("transformer_lm", "lora", rank=9).shapes


def test_default_targets():
    queries = {path.rsplit("/", 2)[-2] for path in adaptation_of("transformer_lm", "lora").added}
    assert queries == {"query", "value"}
    kernels = adaptation_of("rnn_lm", "lora").added
    assert "recurrent/layers_0/recurrent_kernel_lora_a" in kernels and not any("embedding" in path for path in kernels)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_in_bfloat16(method):
    """KNOWN_BUGS 15: weights are merged in float32; bfloat16 rounds them once (2^-9) where the product beside is rounded twice."""
    adaptation, joined = adapted("transformer_lm", method)
    trained, frozen = adaptation.split(joined)
    moved = jax.tree.map(lambda x: x + 0.1 * RNG.standard_normal(x.shape).astype(np.float32), trained)
    whole, task = steps.joined(moved, frozen), Task("transformer_lm")
    half = Adaptation(adaptation.adapter, base("transformer_lm")[0].clone(dtype=jnp.bfloat16), task, jax.random.key(1))
    merged = adaptation.adapter.merge(whole)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(merged))
    beside, inside = compiled(lambda *params: [output_of(half.model, task, p) for p in params])(whole, merged)
    np.testing.assert_allclose(beside, inside, atol=0.05 * float(jnp.std(beside)), rtol=0.05)


@pytest.mark.parametrize("method", ["dora", "bottleneck", "ia3", "prefix"])
def test_scanned_layers_equal_unrolled_ones(method):
    """The same parameters stacked compute the same, whatever is added to them."""
    _, task, params, *_ = base("transformer_classifier")
    adaptation, joined = adapted("transformer_classifier", method)
    joined = jax.tree.map(lambda x: x + 0.2 * RNG.standard_normal(x.shape).astype(np.float32), joined)
    plugin = lookup.make("model", MODELS["transformer_classifier"], vocab_size=V, num_labels=3, max_length=T + 2, dtype=jnp.float32)
    scanned = plugin.clone(encoder=dict(TRANSFORMER, kw=dict(TRANSFORMER["kw"], scan_layers=True)))
    other = Adaptation(adaptation.adapter, scanned, task, jax.random.key(1))
    flat = tree.flatten(joined)
    stacked = {}
    for path in tree.flatten(other.shapes):
        if "layers/block/" in path:
            stacked[path] = jnp.stack([flat[path.replace("layers/block", f"layer_{i}")] for i in range(2)])
        else:
            stacked[path] = flat[path]
    assert {path: x.shape for path, x in tree.flatten(other.shapes).items()} == {path: x.shape for path, x in stacked.items()}
    both = compiled(lambda *params: [output_of(each.model, task, p) for each, p in zip((other, adaptation), params, strict=True)])
    np.testing.assert_allclose(*both(tree.nest(stacked), joined), atol=2e-5)
