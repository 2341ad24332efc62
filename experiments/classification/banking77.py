"""Which of 77 things a customer of a bank wants (Banking77), with any encoder.

  python -m decoder_lab.main --config=experiments/classification/banking77.py:encoder=cnn,data=data/banking77 --workdir=runs/banking77_cnn

Data: a folder with `train.csv.gz` (10,003 rows under the header text,category) and `test_part1.csv` (every other row of the official test),
which is used as validation. Published on the full test: BERT 93.7, ConveRT 93.0 (Casanueva et al. 2020); TF-IDF of 1- and 2-grams with
logistic regression 89.2 on this part.

| encoder | hardware | time | measured accuracy on test_part1 |
|---|---|---|---|
| transformer | 1 CPU core, shared | 311 s | 90.6 (seed 0, best of 10 evaluations; last 89.9) |
| cnn | 1 CPU core, shared | 160 s | 90.0 +- 0.6 (three seeds, best of 10 evaluations: 90.3, 89.3, 90.3) |
| bag | 2 CPU cores, loaded | 213 s | 84.0 (seed 0, best of 10 evaluations, the last) |
| gru | 1 CPU core, shared | 247 s | 83.1 (seed 0, best of 10 evaluations, the last) |
| lstm | 1 CPU core, shared | 269 s | 81.4 (seed 0, best of 10 evaluations, the last) |
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    encoders = ("cnn", "bag", "lstm", "gru", "transformer")
    arg = parse_argument(arg, data="data/banking77", encoder=encoders, characters=True)
    folder = pathlib.Path(arg.data)
    config = ConfigDict()
    config.total_steps = 2000
    config.batch_size = 64
    config.sequence_length = 96
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.ema = 0.99
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.task = dict(name="classification", kw={})
    config.model = dict(name="classifier", kw=dict(variant=arg.encoder))
    files = dict(train=str(folder / "train.csv.gz"), validation=str(folder / "test_part1.csv"))
    if arg.characters:  # hashed n-grams of each word's characters beside its embedding: what rare words are like
        config.task.kw.characters = 16
        config.model.kw.update(character_dim=64, character_dropout=0.5)
    config.data = dict(
        source=dict(name="csv", kw=dict(fields=dict(text="text", label="category"), **files)),
        tokenizer=dict(name="word", kw=dict(pattern=r"\w+|[^\w\s]", lowercase=True)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation")),
        report=dict(name="classification_report", every="100%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="10%", metric="val/accuracy", mode="max")
    return config
