"""Questions as rows of features: gold spans, windows of long contexts, answers that cannot be found."""

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data import examples as example_lib
from decoder_lab.data.packing.buckets import Packing
from decoder_lab.data.question_windows import QuestionWindows
from decoder_lab.data.rows import ExampleRows
from decoder_lab.data.tokenizer.word import Tokenizer

CONTEXT = "Ann has a dog. Bo has 3 cats, Cy a fish."


def item(question, answer, context=CONTEXT, start=None):
    answers = [] if answer is None else [{"text": answer, "start": context.find(answer) if start is None else start}]
    return {"id": question, "question": question, "context": context, "answers": answers}


ITEMS = [
    item("What has Ann?", "dog"),
    item("What has Bo?", "3 cats"),
    item("What has Cy?", "a fish"),
    item("What has Di?", None),
]


def tokenizer():
    made = Tokenizer()
    made.load(made.train(iter([" ".join("What has Ann Bo Cy Di ? a dog . 3 cats , fish 光 荣".split())])))
    return made


def task_of(**kw):
    task = QuestionWindows(tokenizer(), **{"length": 32, "max_question_length": 8, **kw})
    task.load(task.fit(ITEMS))
    return task


def text_of(raw, row):
    start, end = int(row["start"]), int(row["end"])
    return raw["context"][row["offsets"][start, 0] : row["offsets"][end, 1]]


@pytest.mark.parametrize("raw", ITEMS[:3])
def test_the_gold_span_is_the_answer(raw):
    (row,) = task_of().example(raw)
    assert text_of(raw, row) == raw["answers"][0]["text"] and row["weights"] == 1
    words = row["tokens"][row["start"] : row["end"] + 1]
    np.testing.assert_array_equal(words, tokenizer().encode(raw["answers"][0]["text"]))
    assert row["context"][row["start"] : row["end"] + 1].all() and row["types"][: len(row["question"])].sum() == 0


def test_no_answer_is_position_0():
    (row,) = task_of().example(ITEMS[3])
    assert (row["start"], row["end"], row["weights"], row["context"][0]) == (0, 0, 1, 0)


def test_marks_of_a_tokenizer_stand_where_a_pretrained_model_knows_them():
    """[CLS] question [SEP] context [SEP], of type 0 up to the first [SEP]; no answer can begin or end at a mark."""
    plain, marked = task_of(), task_of(max_characters=3)
    marked.tokenizer.start_ids, marked.tokenizer.middle_ids, marked.tokenizer.end_ids = (90,), (91, 92), (93,)
    for raw in ITEMS:
        (row,), question = marked.example(raw), plain.tokenizer.encode(" ".join(raw["question"][:-1].split()) + " ?").tolist()
        (other,) = plain.example(raw)
        context = other["tokens"][other["context"] == 1].tolist()
        assert row["tokens"].tolist() == [90, *question, 91, 92, *context, 93]
        assert row["types"].tolist() == [0] * (len(question) + 3) + [1] * (len(context) + 1)
        assert row["context"].tolist() == [0] * (len(question) + 3) + [1] * len(context) + [0]
        assert text_of(raw, row) == text_of(raw, other) and len(row["chars"]) == len(row["tokens"]) == len(row["offsets"])
    short = task_of(length=16, stride=3, max_question_length=4)
    short.tokenizer.start_ids, short.tokenizer.middle_ids, short.tokenizer.end_ids = (90,), (91,), (93,)
    rows = short.example(ITEMS[2])
    assert all(len(row["tokens"]) <= 16 and row["tokens"][-1] == 93 for row in rows)
    assert any(text_of(ITEMS[2], row) == "a fish" for row in rows if row["start"])


@pytest.mark.parametrize("length, stride", [(16, 3), (14, 2), (16, 100)])
def test_windows_cover_the_context_and_hold_the_answer_or_say_no(length, stride):
    task = task_of(length=length, stride=stride, max_question_length=4)
    whole = task_of().example(ITEMS[2])[0]
    rows = task.example(ITEMS[2])
    assert len(rows) > 1 and all(len(r["tokens"]) <= length for r in rows)
    seen = [tuple(o) for r in rows for o in r["offsets"][r["context"] == 1]]
    assert set(seen) == {tuple(o) for o in whole["offsets"][whole["context"] == 1]}
    assert tuple(rows[-1]["offsets"][-1]) == tuple(whole["offsets"][-1]), "the last window reaches the end"
    held = [r for r in rows if r["start"]]
    assert held and all(text_of(ITEMS[2], r) == "a fish" for r in held)
    for r in rows:  # only a window that lacks a part of the answer says that it is not there
        begins = [tuple(o) for o in r["offsets"][r["context"] == 1]]
        start = ITEMS[2]["answers"][0]["start"]
        assert bool(r["start"]) == ({(start, start + 1), (start + 2, start + 6)} <= set(begins))
    assert any("windows" in text for text in task.counts)


def test_answers_that_cannot_be_found_are_counted_and_not_trained_on():
    """KNOWN_BUGS 8."""
    task = task_of()
    for raw in (item("What has Bo?", "birds", start=-1), item("What has Bo?", "cats", start=3)):
        (row,) = task.example(raw)
        assert (row["start"], row["end"], row["weights"]) == (0, 0, 0)
    assert [(n, "does not stand" in text) for text, n in task.counts.items()] == [(2, True)]
    (row,) = task.example(item("What has Bo?", "cat"))
    assert text_of(ITEMS[1], row) == "cats" and any("inside a word" in text for text in task.counts)


def test_chinese_is_read_character_by_character():
    raw = item("光?", "荣和", context="由光荣和3.5ω开发的。")
    (row,) = task_of().example(raw)
    assert text_of(raw, row) == "荣和"
    assert list(task_of().texts(raw))[1] == "由 光 荣 和 3 . 5ω 开 发 的 。"


def test_characters_stand_beside_their_tokens():
    task = task_of(max_characters=3)
    (row,) = task.example(ITEMS[0])
    assert row["chars"].shape == (len(row["tokens"]), 3)
    place = row["start"]
    np.testing.assert_array_equal(row["chars"][place], [task.facts[c] for c in "dog"])
    assert not row["chars"][0].any() and row["chars"][1].any(), "the end of text has no characters, the question's first word has"
    assert task.sizes()["char_vocab_size"] == len(set("".join(raw["question"] + raw["context"] for raw in ITEMS))) + 2
    assert "chars" not in task_of().example(ITEMS[0])[0]


def test_empty_questions_and_contexts():
    task = task_of()
    (row,) = task.example(item("", "dog"))
    assert text_of(ITEMS[0], row) == "dog"
    (row,) = task.example(item("What?", None, context=""))
    assert not row["context"].any()


@pytest.mark.parametrize(
    "raw, said", [({"question": "a"}, '"context", which is not there .it has question'), ({"question": None}, "is None")]
)
def test_an_item_without_its_texts_is_said(raw, said):
    task = task_of()
    for read in (task.example, task.extent, lambda raw: list(task.texts(raw))):
        with pytest.raises(UserError, match=f"{said}.*A question is "):
            read(raw)


def test_a_limit_takes_whole_items():
    """`limit` counts questions, and takes all windows of those it takes, so that each can be answered from all of its context."""
    task = task_of(length=14, stride=4, max_question_length=4)
    made = [task.example(raw) for raw in ITEMS]
    examples = example_lib.in_memory(row for rows in made for row in rows)
    index = np.repeat(np.arange(len(made)), [len(rows) for rows in made]).astype(np.int32)
    shard = example_lib.Shard(examples.shards[0].features, index, len(made))
    rows = ExampleRows(Packing(example_lib.Examples([shard]), 16), example_lib.Examples([shard]))
    for limit, expected in ((None, {0, 1, 2, 3}), (2, {0, 2}), (9, {0, 1, 2, 3})):
        taken = np.concatenate([e_B[e_B >= 0] for e_B, _ in rows.plan(2, 1, limit).evaluation()])
        assert sorted(taken.tolist()) == [e for e in range(len(index)) if index[e] in expected]


def test_the_extent_of_a_question_is_what_is_read_and_what_is_cut():
    task = task_of(max_question_length=2)
    size, cut = task.extent(item("What has Ann?", None))
    assert cut == 2 and size == 4 + len(task._read(CONTEXT)[0])
    assert task.extent(item("What has Ann?", None, context=" "))[0] == task.extent(item("", None))[0] == 0
