"""TensorBoard event files below the workdir: `tensorboard --logdir=<workdir>` draws them."""

import dataclasses
import pathlib
from collections.abc import Mapping

from decoder_lab.core.errors import UserError

FOLDER = "tensorboard"


@dataclasses.dataclass
class Writer:
    """Writes scalars and texts; what an earlier process wrote after the step that the run goes on from is no longer shown.

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

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._file.add_scalar(name, float(value), step)

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            # TensorBoard shows Markdown: four spaces keep a sample as it is
            self._file.add_text(name, "\n".join(f"    {line}" for line in text.split("\n")), step)

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        """Nothing: progress is for the terminal."""

    def close(self) -> None:
        self._file.close()
