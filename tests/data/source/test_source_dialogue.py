import json

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import dialogue


def source(tmp_path, *dialogues, split="train", **kw):
    lines = [json.dumps({"turns": [{"speaker": s, "utterance": u} for s, u in turns]}) for turns in dialogues]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    place = {} if "path" in kw else dict(train=str(tmp_path / "a.jsonl"))
    return dialogue.Source(split=split, **place, **kw)


TALK = [("USER", "hi"), ("SYSTEM", "hello"), ("USER", "bye"), ("SYSTEM", "good bye")]


def test_pairs_of_context_and_reply(tmp_path):
    found = source(tmp_path, TALK, [("USER", "alone")], context_turns=2)
    assert [(found[i]["source"], found[i]["target"]) for i in range(len(found))] == [
        ("USER: hi", "hello"),
        ("USER: hi\nSYSTEM: hello", "bye"),
        ("SYSTEM: hello\nUSER: bye", "good bye"),
    ]
    only = source(tmp_path, TALK, reply_by="SYSTEM", context_turns=1)
    assert [(only[i]["source"], only[i]["target"]) for i in range(len(only))] == [("USER: hi", "hello"), ("USER: bye", "good bye")]


def test_whole_dialogues(tmp_path):
    assert source(tmp_path, TALK, pairs=False)[0] == {"text": "USER: hi\nSYSTEM: hello\nUSER: bye\nSYSTEM: good bye"}
    assert source(tmp_path, TALK, pairs=False, speaker="")[0] == {"text": "hi\nhello\nbye\ngood bye"}


def test_dialogues_stay_in_one_split(tmp_path):
    talks = [[("A", f"{n}"), ("B", f"{n} b"), ("A", f"{n} c")] for n in range(10)]
    found = [source(tmp_path, *talks, split=s, path=str(tmp_path / "a.jsonl")) for s in ("train", "validation")]
    names = [{f[i]["target"].split()[0] for i in range(len(f))} for f in found]
    assert not names[0] & names[1] and [len(f) for f in found] == [18, 2]


def test_damage_says_where(tmp_path):
    (tmp_path / "b").write_text(json.dumps({"turns": []}) + "\n" + json.dumps({"turns": [{"speaker": "A", "text": "x"}]}))
    with pytest.raises(UserError, match='b:2: no field "utterance"'):
        len(dialogue.Source(split="train", train=str(tmp_path / "b")))
    with pytest.raises(UserError, match='b:1: no field "turn" .*Did you mean "turns"'):
        len(dialogue.Source(split="train", train=str(tmp_path / "b"), turns="turn"))
