import shutil
import sys

import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.source import tfds as source_tfds

BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class {name}(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        kind = tfds.features.ClassLabel(names=["book", "film"])
        features = tfds.features.FeaturesDict(dict(text=tfds.features.Text(), stars=np.int32, kind=kind))
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return dict(train=self._examples("train", 20), validation=self._examples("validation", 3))

    def _generate_examples(self):
        pass

    def _examples(self, split, count):
        for i in range(count):
            yield i, dict(text=f"{{split}} é {{i}}", stars=i, kind=i % 2)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Directory of a data set built here, in ArrayRecord files."""
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "package_of_reviews").mkdir()
    (folder / "package_of_reviews" / "__init__.py").write_text("")
    (folder / "package_of_reviews" / "lab_reviews.py").write_text(BUILDER.format(name="LabReviews"))
    sys.path.insert(0, str(folder))
    try:
        from package_of_reviews import lab_reviews

        builder = lab_reviews.LabReviews(data_dir=folder / "data", file_format="array_record")
        builder.download_and_prepare()
    finally:
        sys.path.remove(str(folder))
    return builder


def test_items_and_splits_by_name_and_by_directory(prepared):
    by_directory = source_tfds.Source(split="train", dataset=str(prepared.data_path))
    by_name = source_tfds.Source(split="train", dataset="lab_reviews", data_dir=str(prepared.data_path.parent.parent))
    found = sorted((by_directory[i]["text"], int(by_directory[i]["stars"])) for i in range(len(by_directory)))
    assert found == sorted((f"train é {i}", i) for i in range(20))
    assert [by_name[i]["text"] for i in range(20)] == [by_directory[i]["text"] for i in range(20)]
    assert len(source_tfds.Source(split="validation", dataset=str(prepared.data_path))) == 3
    assert "tensorflow" not in sys.modules


def test_fields_and_names_of_labels(prepared):
    source = source_tfds.Source(split="train", dataset=str(prepared.data_path), fields=dict(source="text", label="kind"))
    for i in range(len(source)):
        item = source[i]
        assert item["source"] == f"train é {item['stars']}" and item["label"] == ("book", "film")[item["stars"] % 2]
    number = source_tfds.Source(split="train", dataset=str(prepared.data_path), fields=dict(label="stars"))
    assert {number[i]["label"] for i in range(20)} == {str(i) for i in range(20)} and number.fingerprint() != source.fingerprint()


def test_sliced_splits_and_fingerprints(prepared):
    base = dict(dataset=str(prepared.data_path), validation="train[75%:]")
    sliced = source_tfds.Source(split="validation", **base)
    assert len(sliced) == 5
    assert (
        len({sliced.fingerprint(), *(source_tfds.Source(split=s, dataset=base["dataset"]).fingerprint() for s in ("train", "validation"))})
        == 3
    )


def test_errors_name_what_there_is(prepared):
    directory = str(prepared.data_path)
    with pytest.raises(UserError, match='"test" is not known.*Known: train, validation'):
        len(source_tfds.Source(split="test", dataset=directory))
    with pytest.raises(UserError, match='lab_reviews/1.0.0, train example 0: no field "texts".*Did you mean "text"'):
        source_tfds.Source(split="train", dataset=directory, fields=dict(text="texts"))[0]
    with pytest.raises(UserError, match='field "stars" is int, expected a string'):
        source_tfds.Source(split="train", dataset=directory, fields=dict(text="stars"))[0]
    with pytest.raises(UserError, match='"no_such_set" is not known'):
        len(source_tfds.Source(split="train", dataset="no_such_set"))


def test_tfrecord_says_what_to_do(prepared, tmp_path):
    """The default format of TFDS; a prepared directory is made to say that it is of this kind."""
    directory = tmp_path / "lab_reviews" / "1.0.0"
    shutil.copytree(prepared.data_path, directory)
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="stored as tfrecord.*expected array_record.*download_and_prepare"):
        len(source_tfds.Source(split="train", dataset=str(directory)))


def test_problems_of_a_config():
    assert "no data" in lookup.problems("source", "tfds", dict(dataset=""))[0]
