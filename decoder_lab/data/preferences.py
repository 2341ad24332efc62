"""Pairs of answers to one prompt, one chosen and one rejected, as examples: both sides in one feature, [T, 2], chosen first."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import conversation

SIDES = ("chosen", "rejected")


def conversations(raw: Mapping[str, Any], system: str = "") -> list[list[dict]]:
    """Returns the messages of both sides.

    An answer is a string, or a list of messages: the last is the answer, those before it the prompt where the item names none.
    Errors: UserError for an item without both.
    """
    found = []
    for side in SIDES:
        answer, given = raw.get(side), raw
        if isinstance(answer, list) and answer and isinstance(answer[-1], Mapping):
            *before, last = answer
            answer = last.get("content")
            given = raw if before == [] or {"messages", "source", "prompt"} & raw.keys() else {**raw, "messages": before}
        if not isinstance(answer, str):
            there = ", ".join(sorted(raw)) or "nothing"
            raise UserError(f'preferences: an item has no text "{side}" (it has {there}): name your source\'s fields chosen and rejected.')
        given = {k: v for k, v in given.items() if k != "target"}
        found.append([*conversation.messages_of(given, system), dict(role="assistant", content=answer)])
    return found


def encoded(form: conversation.Format, raw: Mapping[str, Any], system: str = "") -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (ids int32 [T], bool [T]: what is of the answer) of both sides, nothing behind the answers."""
    found = []
    for messages in conversations(raw, system):
        made = form.encode(messages)
        own = (made.turns == made.turns.max()) & (made.turns > 0)
        if not own.any():
            raise UserError(
                "preferences: the chat template writes an answer that cannot be told from its prompt: what it writes before an answer "
                '(add_generation_prompt) is not the beginning of what it writes with it. Set task.kw.template="plain".'
            )
        whole = int(np.flatnonzero(own)[-1]) + 1
        found.append((made.ids[:whole], own[:whole]))
    return found


def stacked(chosen: Mapping[str, np.ndarray], rejected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns features [T, 2] of both sides' [T], the shorter side padded with 0 behind."""
    longest = max(len(side[name]) for side in (chosen, rejected) for name in side)
    pads = [{name: np.pad(x, (0, longest - len(x))) for name, x in side.items()} for side in (chosen, rejected)]
    return {name: np.stack([pads[0][name], pads[1][name]], axis=1) for name in chosen}


def rows(feature_BT2: Any) -> Any:
    """Returns a feature of a batch as rows [2 B, T]: chosen and rejected of the first pair, of the second, ..."""
    return feature_BT2.transpose(0, 2, 1).reshape(-1, feature_BT2.shape[1])
