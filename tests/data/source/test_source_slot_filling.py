import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import slot_filling


def source(tmp_path, words, tags, labels):
    for name, content in (("seq.in", words), ("seq.out", tags), ("label", labels)):
        (tmp_path / name).write_text(content)
    return slot_filling.Source(split="train", train=str(tmp_path / "{}"))


def test_words_tags_and_intent(tmp_path):
    found = source(tmp_path, "play a\u00a0b \nstop\n", "O B-x \nO\n", "Play\nStop\n")
    assert found[0] == {"words": ["play", "a\u00a0b"], "tags": ["O", "B-x"], "label": "Play"}
    assert found[1]["label"] == "Stop" and len(found) == 2


def test_a_word_without_a_tag_says_where(tmp_path):
    found = source(tmp_path, "play it\nstop now\n", "O O\nO\n", "Play\nStop\n")
    with pytest.raises(UserError, match="seq.in:2: 2 words, 1 tags: stop now"):
        found[1]
