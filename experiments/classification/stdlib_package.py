"""Which package of Python's standard library twenty lines of code are from: a classification that needs no download.

  python -m decoder_lab.main --config=experiments/classification/stdlib_package.py:encoder=bag --workdir=runs/stdlib_package

The text is read from the running interpreter's library and split by file; the model does not see the file's path.

| encoder | hardware | time | expected | measured accuracy on held-out files |
|---|---|---|---|---|
"""

import copy

from ml_collections import ConfigDict

from decoder_lab.core import lookup
from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, encoder=("bag", "cnn", "lstm", "gru", "transformer"), smoke=False)
    config = ConfigDict()
    config.total_steps = 600
    config.batch_size = 32
    config.sequence_length = 256
    config.lr = 2e-3
    config.weight_decay = 0.01
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.task = dict(name="classification", kw={})
    config.model = dict(name="classifier", kw=copy.deepcopy(lookup.variants("model", "classifier")[arg.encoder]))
    config.data = dict(
        source=dict(name="python_packages", kw={}),
        tokenizer=dict(name="word", kw=dict(pattern=r"\w+|[^\w\s]", min_count=2, max_size=16000)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation")),
        report=dict(name="classification_report", every="50%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="10%", metric="val/accuracy", mode="max")
    if arg.smoke:
        config.total_steps, config.batch_size, config.sequence_length = 2, 8, 32
        config.schedule["kw"].update(warmup="1 steps")
        config.model.kw = dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=8, num_buckets=16)))
        for evaluator in config.evaluators.values():
            evaluator["kw"].update(limit=16)
    return config
