"""Sorting sequences of digits: one of Sockeye's system tests, with a Transformer of 2 layers, 32 wide.

  python -m decoder_lab.main --config=experiments/sequence_to_sequence/sort.py --workdir=runs/sort

Digits, at most 9 of them. Nothing is downloaded.

| hardware | time | expected | measured |
|---|---|---|---|
| 1 CPU core | 2 min | validation perplexity at most 1.03, BLEU at least 97 (Sockeye's tests) | perplexity 1.0003, BLEU 100 (three seeds) |
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = dict(
        source=dict(name="synthetic", kw=dict(kind="sort")),
        tokenizer=dict(name="word", kw={}),
        packing=dict(name="buckets", kw=dict(by="examples")),
    )
    config.task = dict(name="sequence_to_sequence", kw={})
    sizes = dict(num_layers=2, num_heads=4, width=32, mlp_dim=64, position="sinusoidal", mlp="relu", scale_embeddings=True)
    config.model = dict(
        name="encoder_decoder",
        kw=dict(
            share_embeddings=True,
            encoder=dict(name="transformer", kw=dict(sizes)),
            decoder=dict(name="transformer", kw=dict(sizes)),
        ),
    )
    config.total_steps = 4000
    config.batch_size = 64
    config.sequence_length = 16
    config.lr = 3e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw={})
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.02))
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", batch_size=256)),
        text=dict(name="generation", every="25%", kw=dict(split="validation", metrics=("bleu", "exact_match"), tokenize="none")),
    )
    config.checkpoint = dict(every="25%", metric="text/bleu", mode="max")
    return config
