"""Chat templates: a conversation to the text that a model was trained on, by the Jinja template that came with its tokenizer.

Templates are other people's code, so they run in Jinja's sandbox, where nothing of Python can be reached or changed. What they are given is
what transformers gives them: `messages`, `tools`, `documents`, `add_generation_prompt`, the special strings (`bos_token`, ...),
`raise_exception`, `strftime_now` and `tojson`. What `{% generation %}` encloses is the model's own part.
"""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from decoder_lab.core.errors import UserError

OPEN, CLOSE = "\ue000\ue001", "\ue001\ue000"  # private characters, which stand around the model's part until the text is complete


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A template, ready to be used.

    Attributes:
      source: the Jinja text.
      special: {"bos": string, ...}, given to it as `bos_token` and so on.
      marks: all strings that stand for special ids; no message may hold one.
    """

    source: str
    special: Mapping[str, str]
    marks: tuple[str, ...] = ()

    @functools.cached_property
    def _compiled(self) -> Any:
        return _environment().from_string(self.source)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, tools: Sequence[Any] | None = None, **more: Any
    ) -> tuple[str, list[tuple[int, int]]]:
        """Returns (text, where in it the model's own parts lie, [start, end) in characters; [] where the template does not say).

        Errors: UserError with what the template says of a conversation that it refuses, or for a message that holds a special string: the
        model would take it for the template's.
        """
        import jinja2

        for number, message in enumerate(messages):
            text = message.get("content")
            held = [mark for mark in (*self.special.values(), *self.marks, OPEN, CLOSE) if isinstance(text, str) and mark in text]
            if held:
                raise UserError(
                    f'chat: message {number} holds "{held[0]}", which only the template may write: take it out, or write it differently.'
                )
        given = {f"{name}_token": text for name, text in self.special.items()}
        given |= dict(messages=messages, tools=tools, documents=None, add_generation_prompt=add_generation_prompt, **more)
        try:
            marked = self._compiled.render(**given)
        except jinja2.TemplateError as error:
            raise UserError(f"chat template: {error}") from error
        return _spans(marked)


@functools.cache
def _environment() -> Any:
    from jinja2 import ext, nodes, sandbox

    class Generation(ext.Extension):
        """{% generation %} ... {% endgeneration %}"""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    made = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
    return made


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja's own filter would escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _spans(marked: str) -> tuple[str, list[tuple[int, int]]]:
    text, found = "", []
    for number, piece in enumerate(marked.split(OPEN)):
        own, close, rest = piece.partition(CLOSE)
        if number and close:
            found.append((len(text), len(text) + len(own)))
        text += own + rest
    return text, found
