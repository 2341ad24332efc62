"""What kind of answer a question asks for (TREC, 6 coarse kinds), with any encoder.

  python -m decoder_lab.main --config=experiments/classification/trec.py:encoder=cnn,data=data/trec --workdir=runs/trec_cnn

Data: a folder with `TREC.train` (5,452 lines, "COARSE:fine question" in latin-1); a tenth of it, chosen by hash, is held out. Published, on
the official test of 500 questions: a CNN with random embeddings 88.2 (Kim 2014, as re-run by harvardnlp/sent-conv-torch); TF-IDF with
logistic regression 89.0. `fine=true` has the 50 fine kinds (TF-IDF: 78.4).

| encoder | hardware | time | measured accuracy on the held-out tenth (seed 0, best of 20 evaluations) |
|---|---|---|---|
| cnn | 2 CPU cores, shared | 76 s | 86.1 |
| gru | 2 CPU cores, shared | 48 s | 85.0 |
| lstm, bag, transformer | - | - | not measured |
"""

import copy
import pathlib

from ml_collections import ConfigDict

from decoder_lab.core import lookup
from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    encoders = ("cnn", "bag", "lstm", "gru", "transformer")
    arg = parse_argument(arg, data="data/trec", encoder=encoders, characters=True, fine=False, smoke=False)
    path = pathlib.Path(arg.data) / "TREC.train"
    config = ConfigDict()
    config.total_steps = 600
    config.batch_size = 64
    config.sequence_length = 40
    config.lr = 3e-3
    config.weight_decay = 0.01
    config.ema = 0.99
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.task = dict(name="classification", kw={})
    config.model = dict(name="classifier", kw=copy.deepcopy(lookup.variants("model", "classifier")[arg.encoder]))
    if arg.characters:  # hashed n-grams of each word's characters beside its embedding: what rare words are like
        config.task.kw.characters = 16
        config.model.kw.update(character_dim=64, character_dropout=0.5)
    config.data = dict(
        source=dict(name="labelled_lines", kw=dict(path=str(path), encoding="latin-1", coarse="" if arg.fine else ":")),
        tokenizer=dict(name="word", kw=dict(lowercase=True)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=3)),
    )
    config.evaluators = dict(
        val=dict(name="mean", every="5%", kw=dict(split="validation")),
        report=dict(name="classification_report", every="50%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="5%", metric="val/accuracy", mode="max")
    if arg.smoke:
        config.total_steps, config.batch_size, config.sequence_length = 2, 8, 32
        config.schedule["kw"].update(warmup="1 steps")
        config.model.kw.encoder = dict(name="bag_of_embeddings", kw=dict(embedding_dim=8, num_buckets=16))
        config.model.kw.character_buckets = 16
        config.data["source"] = dict(name="python_packages", kw={})  # runs anywhere
        for evaluator in config.evaluators.values():
            evaluator["kw"].update(limit=16)
    return config
