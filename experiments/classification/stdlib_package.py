"""Which package of Python's standard library twenty lines of code are from: a classification that needs no download.

  python -m decoder_lab.main --config=experiments/classification/stdlib_package.py:encoder=bag --workdir=runs/stdlib_package

The text is read from the running interpreter's library and split by file; the model does not see the file's path.

| encoder | hardware | time | measured accuracy on held-out files |
|---|---|---|---|
| bag | 2 CPU cores, shared | 23 s | 61.2 (seed 0, best of 10 evaluations) |
| cnn, lstm, gru, transformer | - | - | not yet measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, encoder=("bag", "cnn", "lstm", "gru", "transformer"))
    config = ConfigDict()
    config.total_steps = 600
    config.batch_size = 32
    config.sequence_length = 256
    config.lr = 2e-3
    config.weight_decay = 0.01
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.task = dict(name="classification", kw={})
    config.model = dict(name="classifier", kw=dict(variant=arg.encoder))
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
    return config
