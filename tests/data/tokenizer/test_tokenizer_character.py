import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer import character


def trained(*texts, **kw):
    tokenizer = character.Tokenizer(**kw)
    tokenizer.load(tokenizer.train(iter(texts)))
    return tokenizer


@hypothesis.given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
@hypothesis.settings(deadline=None)
def test_lossless_on_the_training_characters(texts):
    """KNOWN_BUGS 24."""
    tokenizer = trained(*texts)
    assert tokenizer.lossless and tokenizer.vocab_size == len(set("".join(texts)))
    for text in [*texts, texts[-1][::-1], ""]:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and len(ids) == len(text) and tokenizer.decode(ids) == text


def test_vocabulary_is_sorted_and_has_no_special_ids():
    tokenizer = trained("cab", "\nba")
    assert tokenizer.encode("\nabc").tolist() == [0, 1, 2, 3] and tokenizer.eos_id is None and tokenizer.vocab_size == 4


def test_unknown_characters_are_named():
    with pytest.raises(UserError, match=r"no '\\n' \(U\+000A\), '!'") as caught:
        trained("abc").encode("a\nb!é😀")
    assert all(
        part in str(caught.value) for part in ("'!' (U+0021)", "'é' (U+00E9)", "U+1F600", "--config.data.tokenizer.kw.unknown=replace")
    )
    with pytest.raises(UserError, match="and 16 more"):
        trained("-").encode("abcdefghijklmnopqrstuvwxyz")


def test_unknown_characters_are_replaced_if_asked():
    tokenizer = trained("abc", unknown="replace")
    assert tokenizer.encode("axb😀").tolist() == [0, 3, 1, 3] and tokenizer.vocab_size == 4
    assert tokenizer.decode([0, 3]) == "a\ufffd" and not tokenizer.lossless


@pytest.mark.parametrize("unknown", ["error", "replace"])
def test_end_of_text_if_asked(unknown):
    tokenizer = trained("abc", unknown=unknown, eos=True)
    assert tokenizer.eos_id == tokenizer.vocab_size - 1 == 3 + (unknown == "replace") and tokenizer.lossless == (unknown == "error")
    assert tokenizer.encode("cab").tolist() == trained("abc").encode("cab").tolist()
    assert tokenizer.decode([0, tokenizer.eos_id, 1]) == "ab" and tokenizer.fingerprint() != trained("abc", unknown=unknown).fingerprint()


def test_no_text_is_an_error():
    with pytest.raises(UserError, match="no character"):
        trained("")


def test_fingerprint_follows_settings_and_vocabulary():
    assert len({t.fingerprint() for t in (trained("ab"), trained("abc"), trained("ab", unknown="replace"))}) == 3
    assert trained("ab").fingerprint() == trained("ba", "a").fingerprint()
