"""Conversations to ids, with the turns that the model is to learn: the assistant's, each with what ends it.

Two forms. "template": the chat template that came with the tokenizer; an assistant's turn is what the template writes after the invitation
to it (`add_generation_prompt`), or what it marks by {% generation %}, and ends with the special id that it has last, or that follows. Where
it lies is known from the rendered text's offsets, never by looking for its words. "plain": for tokenizers without a template, `Role:`, a
line break, the text and the end of text, for each turn; the parts are encoded one by one, so that a turn is the same ids in training and
after a prompt. As no text can hold the end of text, nothing that is said can pass for a turn in either form.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from decoder_lab.core.errors import UserError

ROLES = ("system", "user", "assistant", "tool")
Message = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A conversation: ids int32 [T], and turns int32 [T], k in the k-th of the assistant's turns that can be learned, 0 elsewhere.

    `unlearned`: turns of the assistant that the template writes differently once others follow, so that nothing can be learned from them.
    """

    ids: np.ndarray
    turns: np.ndarray
    unlearned: int = 0


@dataclasses.dataclass(frozen=True)
class Format:
    """How a tokenizer's conversations are written.

    Attributes:
      tokenizer: loaded.
      kind: "auto" is the tokenizer's own template, or "plain" where it has none.
    """

    tokenizer: Any
    kind: Literal["auto", "plain"] = "auto"

    def __post_init__(self):
        if self.template is None and self.tokenizer.eos_id is None:
            raise UserError(
                "conversations: data.tokenizer has neither a chat template nor an eos token, which would end every turn. Tokenizers with "
                "one: sentencepiece, byte, word, huggingface (where its file names one)."
            )

    @property
    def template(self) -> Any:
        """The tokenizer's chat template, None where the plain form is used."""
        return None if self.kind == "plain" else getattr(self.tokenizer, "chat_template", None)

    @property
    def end_id(self) -> int:
        """The id that ends the assistant's turns."""
        if self.template is None:
            return self.tokenizer.eos_id
        found = self.encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        return int(found.ids[np.flatnonzero(found.turns)[-1]])

    def fingerprint(self) -> str:
        """Changes with whatever changes what is written."""
        return f"conversation 1 {self.kind} {None if self.template is None else self.template.source}"

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Returns a conversation, which holds at least one turn of the assistant. Errors: UserError for messages that cannot be."""
        checked(messages)
        return self._plain(messages) if self.template is None else self._templated(messages)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids after which the assistant's next turn is written."""
        checked(messages)
        if self.template is not None:
            text, _ = self.template.render(messages, add_generation_prompt=True)
            return self.tokenizer.encode_rendered(text)[0].tolist()
        return [*self._plain(messages).ids.tolist(), *self._ids(_head("assistant"))]

    def _ids(self, text: str) -> list[int]:
        return np.asarray(self.tokenizer.encode(text)).tolist()

    def _plain(self, messages: Sequence[Message]) -> Encoded:
        ids, turns, number = list(getattr(self.tokenizer, "start_ids", ())), [], 0
        turns += [0] * len(ids)
        for message in messages:
            head, said = self._ids(_head(message["role"])), [*self._ids(message["content"]), self.tokenizer.eos_id]
            number += message["role"] == "assistant"
            ids += [*head, *said]
            turns += [0] * len(head) + [number if message["role"] == "assistant" else 0] * len(said)
        return Encoded(np.asarray(ids, np.int32), np.asarray(turns, np.int32))

    def _templated(self, messages: Sequence[Message]) -> Encoded:
        text, spans = self.template.render(messages)
        unlearned = 0
        if not spans:
            spans, unlearned = _spans(self.template, messages, text)
        ids, offsets = self.tokenizer.encode_rendered(text)
        turns, special = np.zeros(len(ids), np.int32), self.tokenizer.control_ids
        for number, (start, end) in enumerate(spans, start=1):
            inside = [i for i, (a, b) in enumerate(offsets) if start <= a < b <= end]
            if not inside:
                continue
            first, after = inside[0], inside[-1] + 1
            last = next((i for i in reversed(inside) if int(ids[i]) in special), after)  # what is behind it is the template's, not said
            if last == after and not (after < len(ids) and int(ids[after]) in special):
                raise UserError(
                    "chat template: it ends the assistant's turn with no special token, so a model could never learn to stop there. "
                    'Set template="plain", which ends each turn with the end of text.'
                )
            turns[first : last + 1] = number
        return Encoded(ids, turns, unlearned)


def _head(role: str) -> str:
    return f"{role.capitalize()}:\n"


def _spans(template: Any, messages: Sequence[Message], text: str) -> tuple[list[tuple[int, int]], int]:
    """Returns where in the rendered text the assistant's turns lie, and how many are not written as they were when they were the last."""
    spans, unlearned = [], 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, _ = template.render(messages[:i], add_generation_prompt=True)
        after, _ = template.render(messages[: i + 1])
        if text.startswith(after) and after.startswith(before):
            spans.append((len(before), len(after)))
        else:
            unlearned += 1
    return spans, unlearned


def checked(messages: Any) -> None:
    """Errors: UserError where messages are no list of {"role", "content"}, or a role is not known."""
    fine = isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0
    for number, message in enumerate(messages if fine else ()):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or not isinstance(message.get("role"), str):
            raise UserError(f'conversations: message {number} is {message!r:.200}, expected {{"role": str, "content": str}}.')
        if message["role"] not in ROLES:
            raise UserError(f'conversations: message {number} has the role "{message["role"]}", expected one of {", ".join(ROLES)}.')
    if not fine:
        raise UserError(f'conversations: got {messages!r:.200}, expected a list of {{"role", "content"}}, at least one.')


def messages_of(raw: Mapping[str, Any], system: str = "", answer: str = "target") -> list[dict]:
    """Returns the messages of a raw item.

    They are its "messages", or its "source" (else "prompt") as the user's and what is at `answer`, if anything, as the assistant's. A
    `system` message is put first where there is none.
    """
    if "messages" in raw:
        messages = [dict(message) if isinstance(message, Mapping) else message for message in raw["messages"]]
    else:
        asked = raw.get("source", raw.get("prompt"))
        if not isinstance(asked, str | list):
            there = ", ".join(sorted(raw)) or "nothing"
            raise UserError(
                f'conversations: an item has neither "messages" nor "source" and "{answer}" (it has {there}): name the fields of your '
                f'source, such as fields=dict(source=("instruction", "input"), {answer}="output").'
            )
        messages = [dict(role="user", content=asked)] if isinstance(asked, str) else [dict(message) for message in asked]
        if raw.get(answer) is not None:
            messages.append(dict(role="assistant", content=raw[answer]))
    if system and not (messages and isinstance(messages[0], dict) and messages[0].get("role") == "system"):
        messages.insert(0, dict(role="system", content=system))
    return messages
