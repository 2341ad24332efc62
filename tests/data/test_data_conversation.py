"""Conversations to ids: the learned part is what the assistant says and what ends it, in every template, and prompts are prefixes."""

import json

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data import conversation
from decoder_lab.data.tokenizer import byte, huggingface

CHAT = [
    dict(role="system", content="Be brief."),
    dict(role="user", content="Say 1, 2 or yes."),
    dict(role="assistant", content="yes"),
    dict(role="user", content="yes yes?"),
    dict(role="assistant", content="1, 2"),
]
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# of a family whose earlier answers are written without what only the last has
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(folder, template):
    """A byte-level tokenizer with three special ids and a chat template, as a directory of Hugging Face."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    made.train_from_iterator([m["content"] for m in CHAT] * 4, trainer)
    begins = [("<s>", made.token_to_id("<s>"))]  # as Llama's: what calls it as it is gets a beginning of text before the template's own
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=begins)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(bos_token="<s>", eos_token="<|im_end|>", chat_template=template)))
    found = huggingface.Tokenizer(path=str(folder))
    found.load(found.train(iter(())))
    return found


def learned(form, encoded):
    """The ids of each learned turn."""
    return [encoded.ids[encoded.turns == k].tolist() for k in range(1, encoded.turns.max() + 1)]


@pytest.fixture(params=["plain", "chatml", "marked"])
def form(request, tmp_path):
    if request.param == "plain":
        return conversation.Format(byte.Tokenizer())
    return conversation.Format(tokenizer(tmp_path / "t", dict(chatml=CHATML, marked=MARKED)[request.param]))


def test_what_is_learned_is_the_assistants_words_and_their_end(form):
    """KNOWN_BUGS 8, 9: words that others say too are not learned there, and each turn ends with the id that generation stops at."""
    turns = learned(form, form.encode(CHAT))
    assert [form.tokenizer.decode([i for i in ids if i != form.end_id]) for ids in turns] == ["yes", "1, 2"]
    assert all(ids[-1] == form.end_id and ids.count(form.end_id) == 1 for ids in turns)


def test_a_prompt_is_what_training_saw_before_the_turn(form):
    encoded = form.encode(CHAT)
    for k, size in ((1, 2), (2, 4)):
        at = int(np.flatnonzero(encoded.turns == k)[0])
        assert form.prompt(CHAT[:size]) == encoded.ids[:at].tolist()


def test_the_template_writes_the_beginning_of_text_once(tmp_path):
    """KNOWN_BUGS 10."""
    form = conversation.Format(tokenizer(tmp_path / "t", CHATML))
    assert form.encode(CHAT).ids.tolist().count(0) == form.prompt(CHAT[:2]).count(0) == 1
    other = conversation.Format(tokenizer(tmp_path / "u", CHATML + " "))
    assert form.fingerprint() != other.fingerprint(), "a changed template makes new examples"
    assert conversation.Format(form.tokenizer, "plain").fingerprint() not in (form.fingerprint(), other.fingerprint())


def test_turns_that_are_rewritten_later_are_not_learned_but_counted(tmp_path):
    form = conversation.Format(tokenizer(tmp_path / "t", THINKING))
    encoded = form.encode(CHAT)
    assert encoded.unlearned == 1
    [turn] = learned(form, encoded)
    assert form.tokenizer.decode(turn) == "<think></think>1, 2"


def test_what_cannot_be_is_refused(tmp_path):
    """KNOWN_BUGS 9, 24: a turn without an end, a special string in what somebody says, messages of no known form."""
    endless = conversation.Format(tokenizer(tmp_path / "t", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"))
    with pytest.raises(UserError, match="no special token"):
        endless.encode(CHAT[1:3])
    chatml = conversation.Format(tokenizer(tmp_path / "u", CHATML))
    with pytest.raises(UserError, match="only the template may write"):
        chatml.encode([dict(role="user", content="<|im_end|>")])
    for messages, message in (
        ([], "at least one"),
        ([dict(role="human", content="")], 'role "human"'),
        ([dict(role="user", content=3)], "expected"),
    ):
        with pytest.raises(UserError, match=message):
            chatml.encode(messages)
    with pytest.raises(UserError, match='neither "messages" nor "source"'):
        conversation.messages_of({"question": "?"})
