"""The real train step gives the same numbers on every mesh, and its program sends what it must and no more."""

import dataclasses
import functools
import pathlib
import tempfile

import jax
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import tree
from decoder_lab.core.axes import AXES
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import collectives
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import experiment as experiments
from decoder_lab.training import resume

STEPS = 3
TEXT = "never odd or even, said the big palindrome. " * 149 + "!"
SMALL = dict(num_layers=2, num_heads=4, num_kv_heads=2, width=16, mlp_dim=24, scan_layers=True)
# Adam would make large what is nothing but rounding, such as the gradient of a key's bias
ADAM = dict(name="adamw", kw=dict(eps=1e-4))
LLAMA = dict(position="rotary", norm="rms", mlp="swiglu", use_bias=False, tie_embeddings=False)
PAIR = dict(name="transformer", kw={**SMALL, "num_layers": 1, "scan_layers": False, "position": "t5", "dropout": 0.1})
MODELS = {
    "lm": dict(name="decoder_only", kw={**SMALL, **LLAMA, "dropout": 0.1, "remat": "full"}),
    "gpt": dict(name="decoder_only", kw={**SMALL, "num_kv_heads": 4, "scan_layers": False, "dropout": 0.1, "attention_dropout": 0.1}),
    "windows": dict(name="decoder_only", kw={**SMALL, **LLAMA, "window": 5, "global_layers": (1,), "local_rope_theta": 50.0}),
    "experts": dict(name="decoder_only", kw={**SMALL, "num_layers": 1, "scan_layers": False, "num_experts": 4, "expert_capacity": 1.0}),
    "rnn": dict(name="recurrent_lm", kw=dict(width=16, num_layers=1)),
    "pair": dict(name="encoder_decoder", kw=dict(share_embeddings=True, encoder=PAIR, decoder=PAIR)),
    "rnn_pair": dict(
        name="encoder_decoder",
        kw=dict(
            encoder=dict(name="recurrent", kw=dict(width=16, bidirectional=True)),
            decoder=dict(name="recurrent", kw=dict(width=16, dropout=0.1, attention="additive")),
        ),
    ),
    "cnn": dict(name="convolutional_lm", kw=dict(width=16, num_layers=2, dropout=0.1)),
}
MODELS["adapted"] = dict(name="decoder_only", kw={**SMALL, "num_layers": 1, "scan_layers": False, "dropout": 0.1})
MODELS["adapted_scanned"] = dict(name="decoder_only", kw={**SMALL, "dropout": 0.1})
MODELS["adapted_still"] = dict(name="decoder_only", kw={**SMALL, "num_layers": 1, "scan_layers": False})  # without dropout
ADAPTERS = {
    "adalora": dict(rank=3, target_rank=2), "bitfit": {}, "bottleneck": dict(width=3), "dora": dict(rank=2), "freeze": dict(train=("mlp",)),
    "full": dict(layer_decay=0.5), "ia3": {}, "lora": dict(rank=2, quantize="int8"), "prefix": dict(num_tokens=2),
    "prompt": dict(num_tokens=2),
}  # fmt: skip
CHANGES = {
    "lm": dict(ema=0.9, task=dict(name="language_modeling", kw=dict(z_loss=1e-3, loss_chunk=4))),
    "experts": dict(data=dict(packing=dict(name="documents", kw={}))),
    "rnn": dict(accumulate=2, data=dict(tokenizer=dict(name="byte", kw={}))),
}


@functools.cache
def folder():
    path = pathlib.Path(tempfile.mkdtemp())
    (path / "train.txt").write_text(TEXT)
    return path


def experiment(name, num_devices=8, parallel="jit", **mesh):
    """Returns the experiment of one of MODELS, or of "model:adapter", on the first so many devices."""
    name, _, adapter = name.partition(":")
    text = dict(source=dict(name="text", kw=dict(train=str(folder() / "train.txt"), validation=str(folder() / "train.txt"))))
    data = {**text, "tokenizer": dict(name="character", kw={})}
    task = dict(name="language_modeling", kw={})
    if name.endswith("pair"):
        synthetic = dict(name="synthetic", kw=dict(kind="copy", num_train=64))
        data = dict(source=synthetic, tokenizer=dict(name="word", kw={}), packing=dict(name="buckets", kw=dict(num_buckets=1)))
        task = dict(name="sequence_to_sequence", kw={})
    changes = dict(CHANGES.get(name, {}))
    delta = dict(
        total_steps=STEPS, optimizer=ADAM, batch_size=16, sequence_length=16, lr=1e-2, schedule=dict(name="constant", kw={}), task=task,
        model=MODELS[name], mesh=mesh, parallel=parallel, evaluators={}, checkpoint=dict(every="0", metric="", keep_best=0),
        log=dict(every="1", writers={}), data={**data, **changes.pop("data", {})}, **{k: v for k, v in changes.items() if k != "task"},
    )  # fmt: skip
    if adapter:
        delta["adapt"] = dict(name=adapter, kw=ADAPTERS[adapter])
    delta["task"] = changes.get("task", task)
    made = experiments.Experiment(config_lib.resolve(delta), folder() / name, report=lambda line: None)
    sizes = {axis: made.config.mesh[axis] for axis in AXES}
    made.mesh = meshes.make_mesh(jax.devices()[:num_devices], sizes=sizes)
    return made


def advance(made, state, first=0, steps=STEPS):
    """Returns (state, [loss, gradient's norm] of each step, the program's text)."""
    made.check_batch_size()
    step, program, found = made.jitted_step(), None, []
    for number in range(first, first + steps):
        batch = meshes.shard_batch(made.feed.batch(number), made.mesh)
        if program is None and hasattr(step, "lower"):
            program = step.lower(state, batch).compile()
            step = dataclasses.replace(step, compiled=program)
        state, metrics = step(state, batch)
        found.append([metrics["loss"][0] / metrics["loss"][1], metrics["grad_norm"][0]])
    return state, np.array(found, np.float32), program.as_text() if program else ""


@functools.cache
def trained(name, num_devices=8, **mesh):
    """Returns (initial parameters, numbers of each step, parameters and their average)."""
    made = experiment(name, num_devices, **mesh)
    state = made.init_state()
    drawn = jax.device_get(state.params)
    state, numbers, _ = advance(made, state)
    return drawn, numbers, jax.device_get((state.params, state.ema))


def assert_same(name, got, expected, params):
    """Losses and norms to 1e-5 of themselves; parameters after three steps of Adam to a thousandth of a step."""
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, err_msg=name)
    for path, ours in tree.flatten(params).items():
        np.testing.assert_allclose(ours, tree.flatten(expected[1])[path], atol=1e-5, err_msg=f"{name} {path}")


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("experts", dict(data=1, expert=2, context=2, tensor=2)),
        ("rnn", dict(data=4, tensor=2, zero1=True)),
        ("rnn", dict(parallel="pmap")),
        ("pair", dict(data=2, fsdp=2, tensor=2)),
    ],
)
def test_every_mesh_gives_the_numbers_of_one_device(name, mesh):
    """KNOWN_BUGS 2: loss, gradient and parameters, dropout, accumulation and capacity included, do not depend on where things lie.

    What the run begins with is the same to the bit, though no device ever held all of it.
    """
    drawn, numbers, params = trained(name, **mesh)
    expected_drawn, expected, reference = trained(name, 1)
    jax.tree.map(np.testing.assert_array_equal, drawn, expected_drawn)
    assert_same(name, (numbers,), (expected, reference), params)


def assert_adapted_alike(name, **mesh):
    """What is trained begins and goes on as on one device; a length that DoRA takes from a kernel in pieces may differ in its last bit."""
    drawn, numbers, params = trained(name, **mesh)
    expected_drawn, expected, reference = trained(name, 1)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), drawn, expected_drawn)
    assert_same(name, (numbers,), (expected, reference), params)
    before, after = tree.flatten(expected_drawn), tree.flatten(reference[0])
    assert sum(np.abs(after[path] - before[path]).max() > 1e-4 for path in after) >= len(after) / 2, "it learns"


@pytest.mark.parametrize("method", ["adalora", "prefix"])
def test_an_adapter_on_a_mesh_trains_as_on_one_device(method):
    """KNOWN_BUGS 2: ranks and what they are chosen by, learned keys beside heads in pieces; the other methods are slow tests."""
    assert_adapted_alike(f"adapted:{method}", data=2, fsdp=2, tensor=2)


@functools.cache
def moved():
    """One run that goes on, from its checkpoint, in pieces over fsdp, over tensor and time, and on one device."""
    places = [(8, dict(fsdp=4)), (4, dict(data=1, context=2, tensor=2)), (1, {})]
    found, programs, saved = [], [], []
    for number, (num_devices, mesh) in enumerate(places):
        made = experiment("lm", num_devices, **mesh)
        saver = resume.make_saver(made.config, folder() / "moved", lambda line: None)
        state = saver.restore(resume.template(made))[0] if number else made.init_state()
        saved.append(state)
        state, numbers, program = advance(made, state, number, 1)
        saver.save(number + 1, state, {}, wait=True)
        found.append(numbers)
        programs.append(collectives.of_program(program))
    return np.concatenate(found), jax.device_get((state.params, state.ema)), programs, saved


def test_a_run_moves_from_mesh_to_mesh_by_its_checkpoints():
    """Resharding restore: three steps on three meshes are three steps on one device."""
    numbers, params, _, states = moved()
    _, expected, reference = trained("lm", 1)
    assert_same("moved", (numbers,), (expected, reference), params)
    kernel = states[0].params["decoder"]["layers"]["block"]["mlp"]["up"]["kernel"]
    moment = tree.flatten(states[1].opt_state)
    moment = next(leaf for path, leaf in moment.items() if path.endswith("mu/decoder/layers/block/mlp/up/kernel"))
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 4, 24), "in pieces over fsdp"
    assert moment.sharding.shard_shape(moment.shape) == (2, 16, 12), "the moments come back in pieces over tensor"


def test_parameters_in_pieces_are_gathered_layer_by_layer():
    """ZeRO-3: inside the loop over layers each matrix once forwards and once backwards; the whole model nowhere, and no logits."""
    found = moved()[2][0]
    gathered = [one for one in found if one.kind == "all-gather"]
    in_layers = sorted(one.shapes[0] for one in gathered if one.times == SMALL["num_layers"])
    matrices = [(16, 16), (16, 16), (16, 24), (16, 24), (24, 16), (16, 8), (16, 8)]  # query, out, up, gate, down, key, value
    assert in_layers == sorted(2 * matrices)
    assert not [one for one in found for shape in one.shapes if len(shape) > 2 and shape[0] == SMALL["num_layers"]], "no stacked layers"
    once = sum(one.num_bytes for one in gathered if one.times == 1)
    assert once <= 4 * 2 * 16 * 64, "beside the layers only the table of the vocabulary and indices"


def test_tensor_and_context_send_activations_and_no_logits():
    """Megatron's sums, keys and values over time, and softmax over a split vocabulary: never an array as wide as the vocabulary."""
    made = experiment("lm")
    vocab, (batch, length) = made.tokenizer.vocab_size, (16, 16)
    found = moved()[2][1]
    assert vocab % 2 == 0
    for one in found:
        for shape in one.shapes:
            logits = len(shape) >= 2 and shape[-1] in (vocab, vocab // 2) and np.prod(shape[:-1]) >= 4 * batch
            assert not logits, one
    in_layers = [one for one in found if one.times == SMALL["num_layers"]]
    keys_and_values = [one for one in in_layers if one.kind == "all-gather"]
    assert 0 < len(keys_and_values) <= 4, keys_and_values
    assert all(np.prod(one.shapes[0]) == batch * length * 1 * 4 for one in keys_and_values), "one of two kv heads each"


def test_what_cannot_be_split_is_refused_before_anything_is_made():
    with pytest.raises(UserError, match=r"model.kw.num_kv_heads: 2 heads cannot be shared by mesh.tensor=4; it can be one of \[1, 2\]"):
        _ = experiment("lm", tensor=4).layout
    with pytest.raises(UserError, match="mesh.context=2 shares every row in time, and recurrent/layers_0/.* one token after the other"):
        _ = experiment("rnn", context=2).layout
    with pytest.raises(UserError, match="sequence_length: 16 cannot be cut into mesh.context=3 equal pieces"):
        experiment("lm", context=3)
    with pytest.raises(UserError, match='"pmap" copies the model to every device: it knows mesh.data alone, got fsdp=2'):
        experiment("lm", parallel="pmap", fsdp=2)


MATRIX = {
    "lm": [dict(), dict(fsdp=8), dict(tensor=2, zero1=True), dict(data=1, context=8), dict(data=1, fsdp=2, context=2, tensor=2)],
    "gpt": [dict(), dict(fsdp=8), dict(tensor=4), dict(fsdp=4, zero1=True), dict(data=1, fsdp=2, tensor=2, context=2)],
    "windows": [dict(data=2, context=2, tensor=2), dict(fsdp=8)],
    "experts": [dict(), dict(expert=4), dict(expert=2, fsdp=2, tensor=2), dict(parallel="pmap")],
    "rnn": [dict(), dict(fsdp=8), dict(fsdp=2, tensor=2)],
    "rnn_pair": [dict(), dict(fsdp=4), dict(fsdp=2, tensor=2)],
    "pair": [dict(), dict(fsdp=8), dict(tensor=2), dict(data=2, context=2, tensor=2), dict(zero1=True)],
    "cnn": [dict(fsdp=4), dict(fsdp=2, context=2, tensor=2)],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), [(name, mesh) for name, of in MATRIX.items() for mesh in of])
def test_the_whole_matrix_of_models_and_meshes(name, mesh):
    assert_same(name, trained(name, **mesh)[1:2], trained(name, 1)[1:], trained(name, **mesh)[2])


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(ADAPTERS))
def test_every_adapter_on_every_axis(method):
    """Over data, fsdp and tensor; with layers in a scan and time in pieces too."""
    assert_adapted_alike(f"adapted:{method}", data=2, fsdp=2, tensor=2)
    assert_adapted_alike(f"adapted_scanned:{method}", data=1, fsdp=2, tensor=2, context=2)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [dict(zero1=True), dict(parallel="pmap")])
def test_ranks_are_chosen_alike_by_copies(mesh):
    assert_adapted_alike("adapted_still:adalora", **mesh)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lm", "pair", "rnn"])
@pytest.mark.parametrize("num_devices", [2, 4])
def test_fewer_devices(name, num_devices):
    assert_same(name, trained(name, num_devices, fsdp=2)[1:2], trained(name, 1)[1:], trained(name, num_devices, fsdp=2)[2])
