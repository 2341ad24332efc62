import json

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import squad


def article(number, *qas):
    return {"title": f"t{number}", "paragraphs": [{"context": "one two two three", "qas": list(qas)}]}


def question(name, *answers, **more):
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "Which?", "answers": answers, **more}


def items(tmp_path, data, split="train", **kw):
    (tmp_path / "a.json").write_text(json.dumps(data))
    source = squad.Source(split=split, **(kw or dict(train=str(tmp_path / "a.json"))))
    return [source[i] for i in range(len(source))]


def test_answers_stand_where_they_say(tmp_path):
    qas = [question("fits", ("two", 8), ("two", 8)), question("moved", ("two", 9), ("two", 3), ("one", -1)), question("lost", ("four", 2))]
    found = items(tmp_path, {"version": "1.1", "data": [article(0, *qas)]})
    assert [i["id"] for i in found] == ["fits", "moved", "lost"] and found[0]["title"] == "t0"
    assert found[0]["answers"] == [{"text": "two", "start": 8}]
    assert [a["start"] for a in found[1]["answers"]] == [8, 4, 0] and found[2]["answers"] == [{"text": "four", "start": -1}]
    for answer in found[0]["answers"] + found[1]["answers"]:
        assert found[0]["context"][answer["start"] :].startswith(answer["text"])


def test_no_answer(tmp_path):
    qas = [question("v2", is_impossible=True, plausible_answers=[]), question("none"), {"id": 3, "question": "?"}]
    assert [i["answers"] for i in items(tmp_path, {"data": [article(0, *qas)]})] == [[], [], []]


def test_articles_stay_in_one_split(tmp_path):
    data = {"data": [article(n, *[question(f"{n}.{k}") for k in range(3)]) for n in range(10)]}
    found = [{i["id"] for i in items(tmp_path, data, split, path=str(tmp_path / "a.json"))} for split in ("train", "validation")]
    titles = [{name.split(".")[0] for name in ids} for ids in found]
    assert not titles[0] & titles[1] and [len(ids) for ids in found] == [27, 3]


@pytest.mark.parametrize(
    "data, message",
    [
        ({"rows": []}, "as SQuAD has it"),
        ({"data": [article(0, question("a")), {"paragraph": []}]}, "article 1 is not as SQuAD has it"),
        ({"data": [article(0, {"id": "a"})]}, "article 0 .*question"),
        ({"data": []}, "holds nothing"),
    ],
)
def test_other_forms_are_named(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        items(tmp_path, data)
