"""Dialogues as JSON lines (.gz too), one a line: pairs of what was said so far and the reply, or whole dialogues as texts."""

import dataclasses

from decoder_lab.data import records


@dataclasses.dataclass
class Source(records.Records):
    """Items {"source": the turns before, "target": the reply}, or {"text": all turns} with pairs=False.

    A line is {"turns": [{"speaker": str, "utterance": str}, ...]}; turns stand one below the other, each with its speaker in front.
    `path` is divided by dialogues.

    Attributes:
      turns: the line's field of the turns.
      speaker: a turn's field of its speaker; empty: not shown.
      utterance: a turn's field of its text.
      reply_by: only this speaker's turns are replies; empty: everyone's.
      context_turns: how many turns before the reply are shown.
      pairs: one item a reply, or one a dialogue.
    """

    turns: str = "turns"
    speaker: str = "speaker"
    utterance: str = "utterance"
    reply_by: str = ""
    context_turns: int = 5
    pairs: bool = True

    flat = True

    def open(self) -> records.Lines:
        """Returns the items of each dialogue."""
        return records.Lines(records.lines(self.paths_S[0], self.encoding), self._parse)

    def _parse(self, line: str) -> list[dict]:
        turns = records.mapped(records.json_object(line), {"turns": self.turns})["turns"]
        if not isinstance(turns, list):
            raise records.Wrong(f'field "{self.turns}" is {type(turns).__name__}, expected a list of turns.')
        wanted = {"text": self.utterance, **({"speaker": self.speaker} if self.speaker else {})}
        turns = [records.mapped(turn if isinstance(turn, dict) else {}, wanted) for turn in turns]
        shown = [f"{turn['speaker']}: {turn['text']}" if self.speaker else turn["text"] for turn in turns]
        if not self.pairs:
            return [{"text": "\n".join(shown)}]
        return [
            {"source": "\n".join(shown[max(0, i - self.context_turns) : i]), "target": turn["text"]}
            for i, turn in enumerate(turns)
            if i and self.reply_by in ("", turn.get("speaker", ""))
        ]
