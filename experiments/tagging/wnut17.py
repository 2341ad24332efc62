"""Emerging and rare entities in tweets and comments (W-NUT 2017): six types, most of whose names the training data does not have.

  python -m decoder_lab.main --config=experiments/tagging/wnut17.py:data=FOLDER --workdir=runs/wnut17

Data: FOLDER with wnut17train.conll[.gz] and emerging.dev.conll[.gz] of leondz/emerging_entities_17. Without pretrained embeddings the
characters have to do it; published figures with them are 41.86 (the shared task's winner) and 49.49 (Flair), both on test.

| hardware | time | expected (span F1) | measured on dev: best of the 15 epochs, last epoch (three seeds) |
|---|---|---|---|
| 1 CPU core, shared | 2 min | far above the most frequent tag of each word, 6.0 on the held-out test part | 20.9 +- 0.2, 19.4 +- 1.0 |

The best epoch is chosen on the same dev that is reported.
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, data="data/wnut17", crf=True, characters=("cnn", "lstm", "none"))
    folder = pathlib.Path(arg.data)
    files = {split: _either(folder, name) for split, name in (("train", "wnut17train.conll"), ("validation", "emerging.dev.conll"))}
    config = ConfigDict()
    config.data = dict(
        source=dict(name="conll", kw=files),
        tokenizer=dict(name="word", kw={}),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="tagging", kw=dict(scheme="BIO", lower_case=True, zero_digits=True, word_dropout=0.3))
    encoder = dict(cell="lstm", width=100, embedding_dim=50, bidirectional=True, dropout=0.5)
    config.model = dict(
        name="tagger",
        kw=dict(encoder=dict(name="recurrent", kw=encoder), characters=arg.characters, character_features=60, crf=arg.crf, dropout=0.5),
    )
    config.total_epochs = 15.0
    config.batch_size = 16
    config.sequence_length = 160
    config.lr = 3e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw=dict(b2=0.99))
    config.schedule = dict(name="cosine", kw=dict(warmup="2%", floor=0.0))
    config.evaluators = dict(
        val=dict(name="mean", every="1 epochs", kw=dict(split="validation", batch_size=64)),
        spans=dict(name="span_f1", every="1 epochs", kw=dict(split="validation", batch_size=64)),
    )
    config.checkpoint = dict(every="1 epochs", keep=1, metric="spans/f1", mode="max")
    return config


def _either(folder: pathlib.Path, name: str) -> str:
    """Returns the path of a file, or of its .gz where only that is there."""
    packed = folder / f"{name}.gz"
    return str(packed if packed.is_file() else folder / name)
