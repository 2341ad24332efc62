"""The topics of a piece of news (Reuters-21578, split "ModApte"): any number of labels out of about ninety.

  python -m decoder_lab.main --config=experiments/classification/reuters.py:encoder=cnn,data=FOLDER --workdir=runs/reuters

Data: FOLDER with train.jsonl and test.jsonl (.gz or not), a line {"text": str, "topics": [str]} a piece of news; test is used as
validation. Topics of test that train lacks are refused: keep the ninety that have pieces in both, as is the custom.

| encoder | hardware | time | published (90 topics): SVM on TF-IDF (Yang & Liu 1999) | measured |
|---|---|---|---|---|
| any | - | - | F1 micro 86.0, F1 macro 52.5 | not measured: the set is not at hand |
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, data="data/reuters", encoder=("cnn", "bag", "lstm", "gru", "transformer"))
    packed = ".gz" if (pathlib.Path(arg.data) / "train.jsonl.gz").is_file() else ""
    files = dict(train=f"{arg.data}/train.jsonl{packed}", validation=f"{arg.data}/test.jsonl{packed}")
    config = ConfigDict()
    config.data = dict(
        source=dict(name="jsonl", kw=dict(fields=dict(text="text", label="topics"), **files)),
        tokenizer=dict(name="word", kw=dict(pattern=r"\w+|[^\w\s]", lowercase=True, min_count=2)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="classification", kw=dict(kind="multi"))
    config.model = dict(name="classifier", kw=dict(variant=arg.encoder))
    config.total_epochs = 10.0
    config.batch_size = 32
    config.sequence_length = 256
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation")),
        report=dict(name="classification_report", every="10%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="10%", metric="report/f1_micro", mode="max")
    return config
