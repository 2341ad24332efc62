"""Cross-entropy: closed-form values, weights, and the chunked form against the plain one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops.cross_entropy import chunked_cross_entropy, cross_entropy

pytestmark = pytest.mark.usefixtures("strict_numerics")
B, T, D, V = 8, 10, 6, 5


def batch(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (B, T, D), dtype)
    kernel = jax.random.normal(keys[1], (D, V), dtype)
    labels = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jax.random.randint(keys[3], (B, T), 0, 3).astype(jnp.float32)
    return hidden, kernel, labels, weights


def test_closed_form_on_five_classes():
    """KNOWN_BUGS 11: label smoothing with e / V on every class, gold included."""
    probabilities = np.array([0.5, 0.2, 0.1, 0.15, 0.05])
    logits = jnp.asarray(np.log(probabilities) + 3.0, jnp.float32)[None, None]  # log Z = 3
    label = jnp.asarray([[1]])
    nll = -np.log(0.2)
    assert float(cross_entropy(logits, label).loss) == pytest.approx(nll, abs=1e-6)
    smoothed = 0.9 * nll + 0.1 * -np.log(probabilities).mean()
    result = cross_entropy(logits, label, label_smoothing=0.1)
    assert float(result.loss) == pytest.approx(smoothed, abs=1e-6)
    assert float(result.nll) == pytest.approx(nll, abs=1e-6)
    assert float(cross_entropy(logits, label, z_loss=0.01).loss) == pytest.approx(nll + 0.01 * 9, abs=1e-5)
    assert float(cross_entropy(logits, label, label_smoothing=1e-7).loss) == pytest.approx(nll, abs=1e-5)
    assert float(result.correct) == 0 and float(cross_entropy(logits, jnp.asarray([[0]])).correct) == 1


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}, {"z_loss": 0.1}, {"label_smoothing": 0.1, "z_loss": 0.01}])
def test_gradient_equals_autodiff_of_the_definition(settings):
    hidden, kernel, labels, weights = batch()
    logits = hidden @ kernel

    def definition(logits):
        log_z = jax.nn.logsumexp(logits, axis=-1)
        e = settings.get("label_smoothing", 0.0)
        target = (1 - e) * jax.nn.one_hot(labels, V) + e / V
        loss = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1) + settings.get("z_loss", 0.0) * log_z**2
        return jnp.sum(loss * weights)

    got = jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, labels, weights, **settings).loss))(logits)
    want = jax.jit(jax.value_and_grad(definition))(logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, want)


@pytest.mark.parametrize("chunk", [1, 4, 10, 64])
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "z_loss": 0.01}])
def test_chunked_equals_plain_values_and_gradients(chunk, settings):
    hidden, kernel, labels, weights = batch()

    def plain(hidden, kernel):
        sums = cross_entropy(hidden @ kernel, labels, weights, **settings)
        return sums.loss / sums.weight, sums

    def chunked(hidden, kernel):
        sums = chunked_cross_entropy(lambda h: h @ kernel, hidden, labels, weights, chunk=chunk, **settings)
        return sums.loss / sums.weight, sums

    want = jax.jit(jax.value_and_grad(plain, argnums=(0, 1), has_aux=True))(hidden, kernel)
    got = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True))(hidden, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    values = jax.jit(chunked)(hidden, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), values, want[0])


def test_chunked_never_holds_all_logits():
    length, vocab = 256, 4096
    hidden, table = jnp.zeros((4, length, 8)), jnp.zeros((vocab, 8))
    labels = jnp.zeros((4, length), jnp.int32)

    def temporary_bytes(loss):
        return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, table).compile().memory_analysis().temp_size_in_bytes

    whole = 4 * length * vocab * 4
    assert temporary_bytes(lambda h, e: cross_entropy(h @ e.T, labels).loss) >= whole
    assert temporary_bytes(lambda h, e: chunked_cross_entropy(lambda x: x @ e.T, h, labels, chunk=16).loss) < whole / 4


@jax.jit
def chunked_loss_and_gradients(hidden, kernel, labels, weights):
    def loss(hidden, kernel):
        return chunked_cross_entropy(lambda h: h @ kernel, hidden, labels, weights, chunk=2).loss

    return jax.value_and_grad(loss, argnums=(0, 1))(hidden, kernel)


def sharded(pieces, hidden, kernel, labels, weights):
    mesh = jax.make_mesh((8 // pieces, pieces), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split, rows = jax.NamedSharding(mesh, jax.P("fsdp")), jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    return jax.device_put((hidden, kernel, labels, weights), (rows, split, rows, rows))


@pytest.mark.parametrize("pieces", [1, 2])
def test_chunked_on_a_batch_sharded_over_devices(pieces):
    single, split = chunked_loss_and_gradients(*batch()), chunked_loss_and_gradients(*sharded(pieces, *batch()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), split, single)


@pytest.mark.parametrize("pieces", [1, 2])
def test_devices_add_up_once_and_not_once_a_chunk(pieces):
    """The unembedding and its gradient are as large as the vocabulary: no collective may stand in the loop over chunks."""
    program = chunked_loss_and_gradients.lower(*sharded(pieces, *batch())).compile().as_text()
    bodies = re.findall(r" while\(.*body=%([\w.\-]+)", program)
    assert len(bodies) == 1 and "all-reduce" in program
    body = re.search(rf"^%{re.escape(bodies[0])} \(.*?^}}", program, re.DOTALL | re.MULTILINE).group()
    assert "f32[1,1,6,5]" in body and "f32[8,1,6,5]" not in program, "each device has one sum of its own, not everybody's"
    assert not re.search(r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute", body)


@pytest.mark.parametrize("form", ["plain", "chunked"])
def test_positions_without_weight_count_for_nothing_whatever_they_hold(form):
    """KNOWN_BUGS 8: all labels masked gives a loss of 0 and gradients of 0, not 0 / 0; labels there may be -100."""
    hidden, kernel, labels, _ = batch()
    logits = jnp.full((B, T, V), jnp.nan)

    def loss(x):
        if form == "plain":
            return cross_entropy(x, jnp.full_like(labels, -100), jnp.zeros((B, T))).loss
        return chunked_cross_entropy(lambda h: h, x, jnp.full_like(labels, -100), jnp.zeros((B, T)), chunk=4).loss

    assert float(loss(logits)) == 0
    value, gradient = jax.value_and_grad(loss)(hidden @ kernel)
    assert float(value) == 0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("form", ["plain", "chunked"])
def test_a_wild_position_without_weight_keeps_its_nan_out_of_the_gradients(form):
    """KNOWN_BUGS 8: NaN times a weight of 0 stays NaN; the other positions' gradients are as if it were not there."""
    hidden, kernel, labels, _ = batch()
    weights = jnp.ones((B, T)).at[:, 3].set(0.0)

    def loss(x):
        if form == "plain":
            return cross_entropy(x, labels, weights).loss
        return chunked_cross_entropy(lambda h: h, x, labels, weights, chunk=4).loss

    logits = hidden @ kernel
    gradient = jax.jit(jax.grad(loss))
    found = np.asarray(gradient(logits.at[:, 3].set(jnp.nan)))
    assert not found[:, 3].any()
    np.testing.assert_array_equal(found, gradient(logits))


def test_correct_is_the_argmax_and_so_ties_are_no_reward():
    """Equal logits all over were 100% accuracy; the first of the best classes is the answer, as that of an argmax."""
    logits = jnp.asarray([[2.0, 2.0, 1.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [jnp.nan] * 3])
    is_correct = jax.jit(lambda row, label: cross_entropy(row[None, None], label[None, None]).correct)
    correct = [[float(is_correct(row, jnp.int32(c))) for c in range(3)] for row in logits]
    assert correct == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    rough = jax.random.randint(jax.random.key(0), (B, T, V), 0, 3).astype(jnp.bfloat16)
    labels = jax.random.randint(jax.random.key(1), (B, T), 0, V)
    plain, chunked = cross_entropy(rough, labels), chunked_cross_entropy(lambda x: x, rough, labels, chunk=4)
    assert float(plain.correct) == float(chunked.correct) == int((jnp.argmax(rough, axis=-1) == labels).sum()) > 0


def test_logits_in_bfloat16_are_computed_in_float32():
    hidden, kernel, labels, weights = batch(jnp.bfloat16)
    logits = 50 * (hidden @ kernel)
    sums = cross_entropy(logits, labels, weights)
    assert sums.loss.dtype == jnp.float32
    np.testing.assert_allclose(sums.loss, cross_entropy(logits.astype(jnp.float32), labels, weights).loss, rtol=1e-6)
