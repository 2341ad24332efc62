"""The texts of a raw item that is a pair, {"source": str, "target": str}."""

from collections.abc import Mapping

from decoder_lab.core.errors import UserError


def text(raw: Mapping, name: str) -> str:
    """Returns one of an item's texts, `name` "source" or "target". Errors: UserError where it is none, saying what is there."""
    if not isinstance(raw.get(name), str):
        got = f"is {raw[name]!r:.60}" if name in raw else f"is not there (it has {', '.join(sorted(raw)) or 'nothing'})"
        raise UserError(
            f'task: expected a text in an item\'s field "{name}", which {got}. A pair is {{"source": "...", "target": "..."}}; where the '
            "target is asked for, the source alone. Other names get these by --config.data.source.kw.fields, of a source like tsv."
        )
    return raw[name]
