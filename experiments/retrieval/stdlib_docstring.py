"""Find the function that a docstring describes among those of Python's standard library: a search that needs no download.

  python -m decoder_lab.main --config=experiments/retrieval/stdlib_docstring.py:encoder=bag --workdir=runs/stdlib_docstring

The pairs are read from the running interpreter's library and split by file; source is a function without its docstring, target the
docstring's first paragraph. Every function of the held-out files is a candidate; "back_" numbers are docstring -> function.

| encoder | hardware | time | measured on 410 held-out pairs: recall@1, recall@10, mean reciprocal rank of function -> docstring (seed 0) |
|---|---|---|---|
| bag | 2 CPU cores, shared | 18 s | 25.4, 54.6, 0.354 (best of 10 evaluations); 24.4, 54.9, 0.347 (last) |
| cnn, gru, transformer | - | - | not yet measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

ENCODERS = {
    "bag": dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=256, ngrams=1, dropout=0.2)), pooling="mean"),
    "cnn": dict(encoder=dict(name="convolutional", kw=dict(embedding_dim=128, widths=(1, 3, 5))), pooling="max"),
    "gru": dict(encoder=dict(name="recurrent", kw=dict(cell="gru", width=128, bidirectional=True)), pooling="max"),
    "transformer": dict(encoder=dict(name="transformer", kw=dict(num_layers=2, num_heads=4, width=128)), pooling="mean"),
}


def get_config(arg=""):
    arg = parse_argument(arg, encoder=tuple(ENCODERS))
    config = ConfigDict()
    config.total_steps = 600
    config.batch_size = 128
    config.sequence_length = 128
    config.lr = 2e-3
    config.weight_decay = 0.01
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.task = dict(name="retrieval", kw={})
    config.model = dict(name="dual_encoder", kw=dict(projection_dim=128, dropout=0.1, **ENCODERS[arg.encoder]))
    config.data = dict(
        source=dict(name="python_docstrings", kw={}),
        # words inside of names are words of their own: get_maximumSize -> get, maximum, Size
        tokenizer=dict(name="word", kw=dict(pattern=r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\sa-zA-Z0-9]", min_count=2, max_size=8000)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=2)),
    )
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation")),
        search=dict(name="retrieval", every="10%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="10%", metric="search/mrr", mode="max")
    return config
