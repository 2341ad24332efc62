"""Questions on paragraphs in the JSON form of SQuAD 1.1 and 2.0 (.gz too), which CMRC 2018, XQuAD, KorQuAD and others share."""

import dataclasses
import json

from decoder_lab.core.errors import UserError
from decoder_lab.data import files, records


@dataclasses.dataclass
class Source(records.Records):
    """Items {"id", "question", "context", "title": str, "answers": [{"text": str, "start": int}]}; no answers: the context has none.

    `start` counts characters of the context. Where the file's does not fit the answer's text, it is the nearest place where the text
    stands, or -1 where it stands nowhere. `path` is divided by articles, so that no paragraph is in two splits.
    """

    flat = True

    def open(self) -> list[list[dict]]:
        """Returns the questions of each article."""
        return [items for path in self.paths_S[0] for items in self._articles(path)]

    def _articles(self, path) -> list[list[dict]]:
        try:
            content = json.loads(files.read(path, self.encoding))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}.") from error
        articles = content.get("data") if isinstance(content, dict) else content
        if not isinstance(articles, list):
            raise UserError(f'{path}: expected {{"data": [articles]}} as SQuAD has it, got {type(content).__name__}.')
        found = []
        for number, article in enumerate(articles):
            try:
                found.append([item for paragraph in article["paragraphs"] for item in _questions(paragraph, article.get("title", ""))])
            except (KeyError, TypeError, AttributeError) as error:
                form = '{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}'
                raise UserError(f"{path}: article {number} is not as SQuAD has it ({error!r}); expected {form}.") from error
        return [items for items in found if items]


def asked(text: str) -> list[dict] | None:
    """Returns the questions {"question", "context", "id" where there is one} of a file's text, answers aside; None: another form."""
    try:
        content = json.loads(text)
        articles = content["data"] if isinstance(content, dict) else content
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        found = [(paragraph["context"], question) for paragraph in paragraphs for question in paragraph["qas"]]
        return [{**({"id": str(q["id"])} if "id" in q else {}), "question": q["question"], "context": context} for context, q in found]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def _questions(paragraph: dict, title: str) -> list[dict]:
    context = paragraph["context"]
    found = []
    for question in paragraph["qas"]:
        given = [] if question.get("is_impossible") else question.get("answers") or []
        answers = []
        for answer in given:
            answer = {"text": answer["text"], "start": _place(context, answer["text"], answer["answer_start"])}
            if answer["text"] and answer not in answers:
                answers.append(answer)
        found.append({"id": str(question["id"]), "question": question["question"], "context": context, "title": title, "answers": answers})
    return found


def _place(context: str, text: str, start: int) -> int:
    """Returns where the text stands, nearest to `start`; -1: nowhere."""
    if start >= 0 and context.startswith(text, start):
        return start
    places = (context.rfind(text, 0, max(start, 0) + len(text)), context.find(text, max(start, 0)))
    return min((p for p in places if p >= 0), key=lambda p: abs(p - start), default=-1)
