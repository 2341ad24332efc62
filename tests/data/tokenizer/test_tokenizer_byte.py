import hypothesis
import hypothesis.strategies as st
import numpy as np

from decoder_lab.data.tokenizer import byte

tokenizer = byte.Tokenizer()


@hypothesis.given(st.text())
def test_lossless(text):
    """KNOWN_BUGS 24."""
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids  # whatever the text says


@hypothesis.given(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
def test_any_ids_can_be_decoded(ids):
    assert isinstance(tokenizer.decode(ids), str)


def test_end_of_text_is_silent_and_training_reads_nothing():
    assert tokenizer.decode([104, 256, 105]) == "hi" and tokenizer.vocab_size == 257
    assert tokenizer.train(iter(lambda: 1 / 0, None)) == b""
