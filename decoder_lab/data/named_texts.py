"""The texts of a raw item, where a task reads several under fixed names."""

from collections.abc import Mapping

from decoder_lab.core.errors import UserError

PAIR = 'A pair is {"source": "...", "target": "..."}; where the target is asked for, the source alone.'
QUESTION = 'A question is {"question": "...", "context": "..."}, to learn from with "answers": [{"text": "...", "start": 0}].'


def of(raw: Mapping, name: str, form: str = PAIR) -> str:
    """Returns one of an item's texts. Errors: UserError where it is none, saying what is there and what an item looks like, `form`."""
    if not isinstance(raw.get(name), str):
        got = f"is {raw[name]!r:.60}" if name in raw else f"is not there (it has {', '.join(sorted(raw)) or 'nothing'})"
        raise UserError(
            f'task: expected a text in an item\'s field "{name}", which {got}. {form} Other names get these by '
            "--config.data.source.kw.fields, of a source that has it."
        )
    return raw[name]
