"""MLflow, under the names that metrics.jsonl has. Offline as long as no server is named: the store is then a database file.

What MLflow's names may not hold is written as "-"; its files cannot be appended to, so each text and detail is one file a step.
"""

import contextlib
import dataclasses
import fcntl
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from decoder_lab.core import writer
from decoder_lab.core.errors import UserError

RUN_ID = "mlflow_run_id"
MOST_LENGTH = 6000  # characters that MLflow keeps of a setting
AT_ONCE = 100  # settings that it takes in one call
LOCAL = "sqlite:///"
FORBIDDEN = re.compile(r"[^\w\-. /:]")


@dataclasses.dataclass
class Writer:
    """One MLflow run for each workdir, also over many processes. What a resumed run writes again has the same value at the same step.

    Its status is RUNNING, then FINISHED, FAILED, or KILLED where a signal ended it; a killed run that goes on is RUNNING again.

    Attributes:
      tracking_uri: a server's address, or "sqlite:///FILE"; None: what MLFLOW_TRACKING_URI says, or mlflow.db in the current folder.
      experiment: under which runs are shown.
      name: of the run; None: the workdir's name.
    """

    directory: pathlib.Path
    resume_step: int | None
    tracking_uri: str | None = None
    experiment: str = "decoder_lab"
    name: str | None = None

    def __post_init__(self):
        try:
            import mlflow
        except ImportError:
            raise UserError('writer "mlflow" needs the package mlflow: pip install mlflow-skinny sqlalchemy alembic.') from None
        self._entities, self._ended = mlflow.entities, "FINISHED"
        directory = pathlib.Path(self.directory).absolute()
        record = directory / RUN_ID
        with _alone(str(self.tracking_uri or mlflow.get_tracking_uri())):
            self._client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
            if self.resume_step and record.is_file():
                self._id = record.read_text()
                self._client.update_run(self._id, status="RUNNING")
                return
            run = self._client.create_run(self._experiment(mlflow), run_name=self.name or directory.name)
        self._id = run.info.run_id
        directory.mkdir(parents=True, exist_ok=True)
        record.write_text(self._id)
        settings = [self._entities.Param(_name(k), str(v)[:MOST_LENGTH]) for k, v in writer.hyperparameters(directory).items()]
        for i in range(0, len(settings), AT_ONCE):
            self._client.log_batch(self._id, params=settings[i : i + AT_ONCE])

    def _experiment(self, mlflow: Any) -> str:
        """Returns the experiment's number; makes it where nobody has."""
        if known := self._client.get_experiment_by_name(self.experiment):
            return known.experiment_id
        try:
            return self._client.create_experiment(self.experiment)
        except mlflow.exceptions.MlflowException as error:  # a run on another machine was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._client.get_experiment_by_name(self.experiment).experiment_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = round(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[self._entities.Metric(_name(k), float(v), now, step) for k, v in values.items()])

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._client.log_text(self._id, text, f"{_name(name)}/{step}.txt")

    def details(self, step: int, found: Mapping[str, Mapping]) -> None:
        for name, detail in found.items():
            self._client.log_dict(self._id, writer.plain(detail), f"{_name(name)}/{step}.json")

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        """Nothing: progress is for the terminal."""

    def stopped(self) -> None:
        self._ended = "KILLED"

    def close(self) -> None:
        self._client.set_terminated(self._id, "FAILED" if sys.exc_info()[0] else self._ended)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Lets one process of this machine at a time open a store that is a file: several that make its tables at once fail over each other."""
    path = pathlib.Path(uri.removeprefix(LOCAL).partition("?")[0] + ".lock")
    if not uri.startswith(LOCAL):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _name(name: str) -> str:
    return FORBIDDEN.sub("-", name)
