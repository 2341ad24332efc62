"""Whether a claim holds of a function ("It has no loops."): pairs of texts, one label, in the manner of textual entailment.

  python -m decoder_lab.main --config=experiments/classification/stdlib_claims.py:encoder=cnn --workdir=runs/stdlib_claims

Nothing is downloaded: the functions are those of the running interpreter's library, split by file; Python's parser says what is true.
The claim stands behind the function, after an end of text. What decides is neither text but how they go together, which a linear model of
their words cannot tell; here a hidden layer stands over the pooled encoder.

| encoder | hardware | time | measured accuracy on 672 held-out pairs (seed 0) |
|---|---|---|---|
| cnn | 2 CPU cores, shared | 7 min | 90.5 (last of 5 evaluations, the best) |
| TF-IDF of 1- and 2-grams, logistic regression: both texts; the claim alone | | | 70.5; 72.3 |
| the more frequent answer for all | | | 52.7 |
| bag, lstm, gru, transformer | - | - | not measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, encoder=("cnn", "bag", "lstm", "gru", "transformer"))
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_functions", kw={}),
        tokenizer=dict(name="word", kw=dict(pattern=r"\w+|[^\w\s]", min_count=2)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="classification", kw=dict(pairs="separator"))
    config.model = dict(name="classifier", kw=dict(variant=arg.encoder, head="relu", head_dim=128))
    if arg.encoder == "transformer":  # it is told which text a token is of; the others see the separator
        config.task.kw.pairs = "types"
        config.model.kw.encoder = dict(kw=dict(num_types=2))
    config.total_steps = 1000
    config.batch_size = 32
    config.sequence_length = 256
    config.lr = 2e-3
    config.weight_decay = 0.01
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.evaluators = dict(
        val=dict(name="mean", every="20%", kw=dict(split="validation")),
        report=dict(name="classification_report", every="100%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="20%", metric="val/accuracy", mode="max")
    return config
