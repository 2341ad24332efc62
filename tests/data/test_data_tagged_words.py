"""Sentences of tagged words as features: pieces, parts of long sentences, unknown tags, and schemes that data breaks."""

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.tagged_words import TaggedWords


class Pieces:
    """A tokenizer that cuts a word into pieces of two characters; "-" gives nothing."""

    eos_id = None

    def encode(self, text):
        text = text.replace("-", "")
        return np.array([sum(map(ord, text[i : i + 2])) for i in range(0, len(text), 2)], np.int32)


ITEMS = [
    {"words": ["Ann", "sees", "Bo"], "tags": ["B-PER", "O", "B-PER"]},
    {"words": ["in", "Rio", "Grande"], "tags": ["O", "B-LOC", "I-LOC"]},
]


def made(items=ITEMS, length=16, **kw):
    features = TaggedWords(Pieces(), length, **kw)
    features.load(features.fit(items))
    return features


def test_tags_are_completed_and_characters_counted():
    features = made()
    assert features.tags == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert features.found_scheme == "BIO"
    assert features.sizes() == {"num_labels": 5, "char_vocab_size": len(set("AnnseesBoinRioGrande")) + 2}


def test_the_first_piece_of_a_word_carries_its_tag():
    """KNOWN_BUGS 22: labels on sub-words."""
    (example,) = made().example(ITEMS[1])
    pieces = [Pieces().encode(w) for w in ITEMS[1]["words"]]
    np.testing.assert_array_equal(example["tokens"], np.concatenate(pieces))
    np.testing.assert_array_equal(example["starts"], [0, 1, 3])
    np.testing.assert_array_equal(example["tags"], [0, 1, 2])
    assert example["chars"].shape == (3, 20) and (example["chars"][0, 2:] == 0).all() and (example["chars"][0, :2] > 1).all()
    assert {k: len(v) for k, v in example.items()} == dict(tokens=6, segments=6, starts=3, words=3, chars=3, tags=3, weights=3)
    (untagged,) = made().example({"words": ITEMS[1]["words"]})
    assert example["weights"].all() and not untagged["weights"].any()  # nobody learns tag 0 from a sentence without tags


def test_long_sentences_become_parts_and_come_together_again():
    """KNOWN_BUGS 8: nothing is lost in silence; every word is in one part, in order."""
    features = made(length=4)
    parts = features.example(ITEMS[0])
    assert [len(p["words"]) for p in parts] == [2, 1] and features.counts == {"sentences of more than 4 tokens, cut into parts": 1}
    assert all(len(p["tokens"]) <= 4 and p["starts"][0] == 0 for p in parts)
    names = [[features.tags[c] for c in p["tags"]] for p in parts]
    assert features.join(ITEMS[0], names) == ITEMS[0]["tags"]
    with pytest.raises(ValueError, match="expected tags for 3 words, got 2"):
        features.join(ITEMS[0], names[:1])


@pytest.mark.parametrize("scheme, b, i, e", [("BIO", "B-LOC", "I-LOC", "I-LOC"), ("BIOES", "B-LOC", "I-LOC", "E-LOC")])
def test_a_long_sentence_is_not_cut_inside_a_span(scheme, b, i, e):
    """A part that began with I- was one that a constrained CRF forbids (a loss of 1e9) and that no prediction could match."""
    train = [{"words": ["x"] * 4, "tags": ["O", b, i, e]}]
    features = made(train, length=5, scheme=scheme)
    cut = lambda tags: [[features.tags[c] for c in p["tags"]] for p in features.example({"words": ["x"] * len(tags), "tags": tags})]  # noqa: E731
    assert cut(["O", "O", "O", b, i, e, "O"]) == [["O", "O", "O"], [b, i, e, "O"]]
    assert cut([b, e, "O", b, i, e, b, e]) == [[b, e, "O"], [b, i, e, b, e]]
    assert cut([b, i, i, i, i, i, e, "O", "O"]) == [[b, i, i, i, i], [i, e, "O", "O"]]  # there is no better place
    (untagged, rest) = features.example({"words": ["x"] * 7})
    assert len(untagged["words"]) == 5 and len(rest["words"]) == 2


class Marked(Pieces):
    """The same with marks around every text, as BERT's has."""

    start_ids, middle_ids, end_ids = (1,), (2,), (2,)


def test_marks_stand_around_every_part_and_count_towards_its_length():
    plain, marked = made(length=4), TaggedWords(Marked(), 6)
    marked.load(marked.fit(ITEMS))
    for item in ITEMS:
        for without, example in zip(plain.example(item), marked.example(item), strict=True):
            assert example["tokens"].tolist() == [1, *without["tokens"], 2] and len(example["segments"]) == len(example["tokens"])
            np.testing.assert_array_equal(example["starts"], without["starts"] + 1)
            np.testing.assert_array_equal(example["tags"], without["tags"])
    with pytest.raises(UserError, match="sequence_length=2 has no room for a word"):
        TaggedWords(Marked(), 2).example({"words": ["x"]})


def test_words_without_pieces_or_with_too_many_are_counted():
    features = made(length=3)
    parts = features.example({"words": ["-", "abcdefghij"], "tags": ["O", "O"]})
    assert [p["tokens"].tolist() for p in parts][0] == [0] and len(parts[1]["tokens"]) == 3
    assert len(features.counts) == 3


def test_unknown_tags_are_counted_and_missing_ones_are_not():
    features = made()
    (example,) = features.example({"words": ["x"], "tags": ["B-ORG"]})
    assert example["tags"].tolist() == [0] and sum(features.counts.values()) == 1
    features.counts.clear()
    assert features.example({"words": ["x"]})[0]["tags"].tolist() == [0] and not features.counts
    assert features.example({"words": []}) == []


def test_lower_case_and_digits_change_tokens_but_not_characters():
    plain, changed = made(), made(lower_case=True, zero_digits=True)
    item = {"words": ["A7"], "tags": ["O"]}
    assert plain.example(item)[0]["tokens"].tolist() == [ord("A") + ord("7")]
    assert changed.example(item)[0]["tokens"].tolist() == [ord("a") + ord("0")]
    np.testing.assert_array_equal(plain.example(item)[0]["chars"], changed.example(item)[0]["chars"])
    assert list(changed.texts(ITEMS[0])) == ["ann sees bo"]
    assert plain.fingerprint() != changed.fingerprint()


def test_long_words_keep_beginning_and_end():
    features = made(max_characters=4)
    short, long = (features.example({"words": [w], "tags": ["O"]})[0]["chars"][0] for w in ("sees", "seAnnes"))
    np.testing.assert_array_equal(short, long)
    assert features.example({"words": ["?"]})[0]["chars"][0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    "tags, scheme, found",
    [
        (["B-a", "I-a", "O"], "auto", "BIO"),
        (["I-a", "I-a", "O"], "auto", "IOB1"),
        (["B-a", "E-a", "S-a"], "auto", "BIOES"),
        (["B", "M", "E"], "auto", "BMES"),
        (["DET", "NOUN", "VERB"], "auto", "none"),
        (["I-a", "B-b", "I-a"], "none", "none"),
    ],
)
def test_schemes_are_found(tags, scheme, found):
    features = made([{"words": ["x"] * 3, "tags": tags}], scheme=scheme)
    assert features.found_scheme == found
    assert (features.allowed() is None) == (found == "none")


def test_a_broken_scheme_says_which_sentence():
    items = [*ITEMS, {"words": ["at", "Oslo"], "tags": ["O", "I-LOC"]}]
    with pytest.raises(UserError, match='sentence 2 .*"at Oslo".*tag I-LOC of "Oslo" .word 1. must not stand after O'):
        made(items, scheme="BIO")
    with pytest.raises(UserError, match="keeps to no scheme(.|\n)*IOB1: sentence 0(.|\n)*BIO: sentence 2"):
        made(items)


def test_words_and_tags_must_be_as_many():
    with pytest.raises(UserError, match="2 words and 1 tags"):
        made([{"words": ["a", "b"], "tags": ["O"]}])
    with pytest.raises(UserError, match="words"):
        made().example({"text": "a"})


@pytest.mark.parametrize("item", [{"words": "Ann went"}, {"words": ["Ann", 3]}, {"words": ["Ann"], "tags": "O"}])
def test_words_and_tags_are_lists_of_texts(item):
    """A string was taken for its letters."""
    with pytest.raises(UserError, match="expected a list of texts in an item's field .*which is "):
        made().example(item)
    with pytest.raises(UserError, match='field "words", .*which is not there; there are: text'):
        made().example({"text": "Ann went"})


def test_the_extent_of_a_sentence_is_what_is_read_and_what_is_cut():
    features = made(length=2)
    assert features.extent({"words": ["Ann", "Grandes"]}) == (6, 2) and features.extent({"words": []}) == (0, 0)
