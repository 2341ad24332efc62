"""TensorBoard event files below the workdir: `tensorboard --logdir=<workdir>` draws them.

Scalars and texts under the names that metrics.jsonl and samples.jsonl have; details of the kind "histograms" in the tab of histograms,
other ones as texts; the run's settings in the tab HPARAMS, several runs side by side where --logdir is the folder above them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from decoder_lab.core import writer
from decoder_lab.core.errors import UserError

FOLDER = "tensorboard"


@dataclasses.dataclass
class Writer:
    """What an earlier process wrote after the step that the run goes on from is no longer shown.

    Attributes:
      flush_seconds: how long numbers may wait in memory; a kill loses them here, never from metrics.jsonl.
    """

    directory: pathlib.Path
    resume_step: int | None
    flush_seconds: int = 20

    def __post_init__(self):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError('writer "tensorboard" needs the package tensorboardX: pip install tensorboardX.') from None
        folder = pathlib.Path(self.directory) / FOLDER
        first_new = self.resume_step + 1 if self.resume_step else 0
        purge = dict(purge_step=first_new) if folder.exists() else {}
        # files are named by the second; without a suffix, a quick restart would overwrite what was written before it
        suffix = f".{len(list(folder.glob('*'))):06d}"
        self._file = SummaryWriter(str(folder), flush_secs=self.flush_seconds, filename_suffix=suffix, **purge)
        if settings := writer.hyperparameters(self.directory):
            self._settings(settings)

    def _settings(self, settings: dict[str, int | float | str | bool]) -> None:
        """Says which settings the run has, and which of its numbers stand beside them."""
        from tensorboardX import summary

        shown = dict.fromkeys(("train/loss", settings.get("checkpoint.metric", "val/loss")), 0.0)  # names only: values are the scalars'
        for part in summary.hparams(settings, shown):
            self._file.file_writer.add_summary(part)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._file.add_scalar(name, float(value), step)

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            # TensorBoard shows Markdown: four spaces keep a sample as it is
            self._file.add_text(name, "\n".join(f"    {line}" for line in text.split("\n")), step)

    def details(self, step: int, found: Mapping[str, Mapping]) -> None:
        for name, detail in found.items():
            if detail["kind"] != "histograms":
                self.text(step, {name: json.dumps(writer.plain(detail), ensure_ascii=False)})
                continue
            for group, bins in detail["groups"].items():
                self._histogram(f"{name}/{group}", bins["edges"], bins["counts"], step)

    def _histogram(self, name: str, edges: list[float], counts: list[int], step: int) -> None:
        """Adds one histogram; its sums are those of values in the middle of their bins."""
        middles = [(low + high) / 2 for low, high in zip(edges[:-1], edges[1:], strict=True)]
        sums = [sum(c * m**power for c, m in zip(counts, middles, strict=True)) for power in (1, 2)]
        about = dict(min=edges[0], max=edges[-1], num=sum(counts), sum=sums[0], sum_squares=sums[1])
        self._file.add_histogram_raw(name, **about, bucket_limits=edges[1:], bucket_counts=counts, global_step=step)

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        """Nothing: progress is for the terminal."""

    def close(self) -> None:
        self._file.close()
