"""What a function is for, and the role of each identifier in it: intent and slots at once, on the standard library's own functions.

  python -m decoder_lab.main --config=experiments/tagging/stdlib_joint.py --workdir=runs/stdlib_joint

Nothing is downloaded: functions, roles and intents (query, command, change, generator, stub) come from Python's parser and the running
interpreter's library, split by file. Arguments: crf=true|false.

| hardware | time | measured on 512 held-out functions: span F1 of the roles, intent accuracy, whole functions right (seed 0) |
|---|---|---|
| 2 CPU cores, shared | 4 min | 89.7, 93.8, 52.9 (last of 4 evaluations, the best) |
| each word's most frequent tag (on all 658) | | 62.1, -, - |
| TF-IDF of 1- and 2-grams, logistic regression (on all 658); the most frequent intent | | -, 92.7, -; -, 57.3, - |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, crf=True)
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_identifiers", kw={}),
        tokenizer=dict(name="word", kw=dict(min_count=2)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="intent_slots", kw=dict(scheme="BIO", intent_weight=5.0))  # the slots' loss is a sum over words
    encoder = dict(cell="lstm", width=64, embedding_dim=48, bidirectional=True, dropout=0.2)
    config.model = dict(
        name="intent_slots",
        kw=dict(encoder=dict(name="recurrent", kw=encoder), characters="cnn", crf=arg.crf, dropout=0.2, pooling="max"),
    )
    config.total_steps = 600
    config.batch_size = 32
    config.sequence_length = 96
    config.lr = 5e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw=dict(b2=0.99))
    config.schedule = dict(name="cosine", kw=dict(warmup="2%", floor=0.0))
    config.evaluators = dict(
        val=dict(name="mean", every="25%", kw=dict(split="validation", limit=512, batch_size=64)),
        slots=dict(name="span_f1", every="25%", kw=dict(split="validation", limit=512, batch_size=64, table=False)),
    )
    config.checkpoint = dict(every="25%", keep=1, metric="slots/f1", mode="max")
    return config
