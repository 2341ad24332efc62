"""Log-probabilities of given texts: one teacher-forced call of the decoder, with no search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.decoding.context import Decoder, bucket


def lay_out(prompts, targets, max_length: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (page_BW, start_B, begin_B): rows that end together, the column of each prompt's first token and of each target's first."""
    size_B = np.array([len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True)], np.int32)
    width = bucket(int(size_B.max()))
    if max_length is not None:
        width = min(width, max(max_length + 1, int(size_B.max())))
    page_BW = np.zeros((len(size_B), width), np.int32)
    for row, prompt, target in zip(page_BW, prompts, targets, strict=True):
        row[width - len(prompt) - len(target) :] = [*prompt, *target]
    return page_BW, width - size_B, width - np.array([len(target) for target in targets], np.int32)


@functools.partial(jax.jit, static_argnames=("decoder",))
def token_logprobs(decoder: Decoder, params, page_BW, start_B, begin_B, memory=None) -> jax.Array:
    """Returns float32 logprob_BT of every column of the page but the first, given those before it; what is no target's token gives 0."""
    batch, width = page_BW.shape
    columns_1T = jnp.arange(width - 1, dtype=jnp.int32)[None, :]
    positions_BT = columns_1T - start_B[:, None]
    segments_BT = (positions_BT >= 0).astype(jnp.int32)
    prefix_BT = segments_BT.astype(bool) & (columns_1T < begin_B[:, None] - 1)
    given = decoder.given(memory, prefix_BT)
    cache = decoder.init_cache(batch, width - 1)
    logits_BTV, _ = decoder.step(params, page_BW[:, :-1], jnp.maximum(positions_BT, 0), segments_BT, cache, **given)
    logits_BTV = logits_BTV.astype(jnp.float32)
    picked_BT = jnp.take_along_axis(logits_BTV, page_BW[:, 1:, None], axis=2)[:, :, 0]
    return jnp.where(columns_1T + 1 >= begin_B[:, None], picked_BT - jax.nn.logsumexp(logits_BTV, axis=2), 0.0)
