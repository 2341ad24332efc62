import json

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import json as source_json


def source(tmp_path, content, **kw):
    (tmp_path / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return source_json.Source(split="train", train=str(tmp_path / "a.json"), **kw)


def test_lists_of_objects_wherever_they_stand(tmp_path):
    rows = [{"instruction": "Do", "input": "", "output": "x"}, {"instruction": "Do", "input": "it", "output": "y"}]
    fields = dict(source=("instruction", "input"), target="output")
    for content, within in ((rows, ""), ({"data": {"rows": rows}}, "data.rows")):
        found = source(tmp_path, content, within=within, fields=fields)
        assert [(found[i]["source"], found[i]["target"]) for i in range(len(found))] == [("Do", "x"), ("Do\nit", "y")]


@pytest.mark.parametrize(
    "content, kw, message",
    [
        ('[{"text": "a"},\n oops]', {}, "a.json:2: not JSON.*column 2"),
        ('{"text": "a"}\n{"text": "b"}', {}, "a.json:2: .*source jsonl"),
        ({"rows": []}, {}, "got dict, expected a list"),
        ({"rows": []}, dict(within="row"), 'no "row" .*there is rows'),
        ([{"text": "a"}, {"txt": "b"}], {}, 'a.json, entry 1: no field "text".*Did you mean "txt"'),
        (["a"], {}, "entry 0: got str, expected an object"),
        ([], {}, "holds nothing"),
    ],
)
def test_damage_says_where(tmp_path, content, kw, message):
    with pytest.raises(UserError, match=message):
        len(source(tmp_path, content, **kw))
