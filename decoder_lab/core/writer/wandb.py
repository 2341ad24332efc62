"""Weights & Biases. Offline too: with mode="offline" or WANDB_MODE=offline nothing leaves the machine; `wandb sync` sends it later."""

import dataclasses
import html
import json
import pathlib
import sys
import uuid
from collections.abc import Mapping

from decoder_lab.core import runtime, writer
from decoder_lab.core.errors import UserError

FOLDER = "wandb"
FAILED = 1


@dataclasses.dataclass
class Writer:
    """One W&B run for each workdir, also over many processes. W&B ignores numbers of steps that it has already: they are the same ones.

    W&B calls it finished, failed, or preempted where a signal ended it; a preempted run that goes on is running again.

    Attributes:
      project: where the run is shown.
      name: of the run; None: the workdir's name.
      mode: "online", "offline" or "disabled"; None: what WANDB_MODE says, or online.
    """

    directory: pathlib.Path
    resume_step: int | None
    project: str = "decoder_lab"
    name: str | None = None
    mode: str | None = None

    def __post_init__(self):
        try:
            import wandb
        except ImportError:
            raise UserError('writer "wandb" needs the package wandb: pip install wandb. Or take it out of log.writers.') from None
        directory = pathlib.Path(self.directory).absolute()
        (directory / FOLDER).mkdir(parents=True, exist_ok=True)
        self._html, self._histogram, self._ended = wandb.Html, wandb.Histogram, 0
        self._run = wandb.init(
            dir=str(directory),
            project=self.project,
            name=self.name or directory.name,
            id=_run_id(directory / FOLDER / "run_id", bool(self.resume_step)),
            resume="allow",
            mode=self.mode,
            config=writer.hyperparameters(directory),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.log({name: self._html(f"<pre>{html.escape(text)}</pre>") for name, text in texts.items()}, step=step)

    def details(self, step: int, found: Mapping[str, Mapping]) -> None:
        for name, detail in found.items():
            if detail["kind"] == "histograms":
                groups = detail["groups"].items()
                self._run.log({f"{name}/{g}": self._histogram(np_histogram=(b["counts"], b["edges"])) for g, b in groups}, step=step)
            else:
                self.text(step, {name: json.dumps(writer.plain(detail), ensure_ascii=False)})

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        """Nothing: progress is for the terminal."""

    def stopped(self) -> None:
        self._run.mark_preempting()
        self._ended = runtime.EXIT_RESUMABLE

    def close(self) -> None:
        self._run.finish(exit_code=FAILED if sys.exc_info()[0] else self._ended)


def _run_id(path: pathlib.Path, resumed: bool) -> str:
    """Returns the name under which W&B knows this run: the one before for a resumed run, a new one for one from scratch."""
    if not (resumed and path.is_file()):
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text()
