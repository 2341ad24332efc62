"""A TensorFlow Datasets data set in ArrayRecord files, read by random access without TensorFlow."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from decoder_lab.core.errors import UserError, unknown
from decoder_lab.data import files, records

TO_PREPARE = 'builder.download_and_prepare(file_format="array_record")'


@dataclasses.dataclass
class Source:
    """Items {**features of the example, **fields}.

    Attributes:
      split: given by the lab.
      dataset: name as TFDS knows it ("lm1b", "my_set/config:1.0.0"), or the directory of a prepared version.
      data_dir: where prepared data sets lie; None is TFDS's own default.
      fields: item field -> feature, "a.b.0" for a value inside values, or a list of these to be joined; {}: the features as they are.
        A label that TFDS stores as a number is called by its name.
      join: stands between joined texts.
      train: TFDS split that stands for training, slices such as "train[:90%]" included; likewise validation, test.
    """

    split: str
    dataset: str = ""
    data_dir: str | None = None
    fields: dict = dataclasses.field(default_factory=lambda: dict(text="text"))
    join: str = " "
    train: str = "train"
    validation: str = "validation"
    test: str = "test"

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        place = pathlib.Path(self.dataset).expanduser()
        try:
            if (place / "dataset_info.json").is_file():
                return tfds.builder_from_directory(place)
            return tfds.builder(self.dataset, data_dir=self.data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError, FileNotFoundError) as error:
            raise UserError(f'source tfds: dataset "{self.dataset}" is not known, nor a prepared directory: {error}') from error

    @functools.cached_property
    def _examples(self) -> Any:
        builder, wanted = self._builder, getattr(self, self.split)
        if not builder.data_path.exists():
            raise UserError(f"source tfds: {builder.info.full_name} is not prepared in {builder.data_path}. Prepare it: {TO_PREPARE}")
        if (name := wanted.split("[")[0]) not in builder.info.splits:
            raise UserError(unknown(f"source tfds: {self.split}", name, builder.info.splits))
        try:
            examples = builder.as_data_source(wanted)
        except NotImplementedError as error:
            kind = builder.info.file_format.value
            raise UserError(
                f"source tfds: {builder.info.full_name} is stored as {kind}, which only TensorFlow reads; expected array_record. "
                f"Prepare it again: {TO_PREPARE}"
            ) from error
        if not len(examples):
            raise UserError(f'source tfds: split "{wanted}" of {builder.info.full_name} is empty.')
        return examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        try:
            item = records.mapped(self._examples[i], self.fields, self.join)
        except records.Wrong as error:
            raise UserError(f"source tfds: {self._builder.info.full_name}, {self.split} example {i}: {error}") from error
        place = self.fields.get("label")
        features = self._builder.info.features
        kind = features[place] if isinstance(place, str) and place in features else None
        return {**item, "label": kind.int2str(int(item["label"]))} if hasattr(kind, "int2str") else item

    def fingerprint(self) -> str:
        self._examples  # noqa: B018 - says what is wrong with the data set before its files are looked for
        paths = sorted(p for p in pathlib.Path(self._builder.data_path).iterdir() if p.is_file())
        return files.fingerprint(paths, "tfds 2", json.dumps([self.fields, self.join], sort_keys=True), getattr(self, self.split))


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    return [] if kw["dataset"] else ["no data: set dataset to the name of a data set, or to the directory of a prepared one"]
