"""The topic of a piece of news (AG News, 4 topics), on a small part of that set, with any encoder.

  python -m decoder_lab.main --config=experiments/classification/agnews.py:encoder=bag,data=data/agnews_small --workdir=runs/agnews_bag

Data: a folder with `train_from_test.csv.gz` (6,102 rows "class","title","description") and `dev_from_test.csv.gz` (531), both cut from the
official test. Published figures (fastText 92.5, BERT about 94) are of a training set twenty times as large; TF-IDF with logistic regression
has 88.9 on held-out rows of this part.

| encoder | hardware | time | measured accuracy on dev |
|---|---|---|---|
| cnn | 1 CPU core, shared | 3 min | 86.8 (seed 0, best of 10 evaluations) |
| bag | 1 CPU core, shared | 158 s | 84.0 |
| lstm, gru, transformer | - | - | not yet measured |
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    encoders = ("bag", "cnn", "lstm", "gru", "transformer")
    arg = parse_argument(arg, data="data/agnews_small", encoder=encoders, characters=True)
    folder = pathlib.Path(arg.data)
    config = ConfigDict()
    config.total_steps = 800
    config.batch_size = 64
    config.sequence_length = 96
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.ema = 0.99
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.task = dict(name="classification", kw={})
    config.model = dict(name="classifier", kw=dict(variant=arg.encoder))
    files = dict(train=str(folder / "train_from_test.csv.gz"), validation=str(folder / "dev_from_test.csv.gz"))
    if arg.characters:  # hashed n-grams of each word's characters beside its embedding: what rare words are like
        config.task.kw.characters = 16
        config.model.kw.update(character_dim=64, character_dropout=0.5)
    config.data = dict(
        source=dict(name="csv", kw=dict(header=False, fields=dict(label=0, text=[1, 2]), **files)),
        tokenizer=dict(name="word", kw=dict(pattern=r"\w+|[^\w\s]", lowercase=True, min_count=2)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation")),
        report=dict(name="classification_report", every="50%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="10%", metric="val/accuracy", mode="max")
    return config
