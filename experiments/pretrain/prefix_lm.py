"""A decoder-only model on pairs: it reads a function of Python's library, in both directions, and goes on with its docstring.

  python -m decoder_lab.main --config=experiments/pretrain/prefix_lm.py --workdir=runs/prefix_lm
  python -m decoder_lab.main --config=experiments/pretrain/prefix_lm.py:data=pairs,prefix=causal --workdir=runs/pairs

`data` is a folder with train.jsonl and validation.jsonl, whose lines have the texts `source` and `target` (default: functions and the first
paragraphs of their docstrings from the running interpreter's library, nothing is downloaded). `prefix=causal` reads the source from left
to right only, for comparison.

| hardware | time | expected | measured |
|---|---|---|---|
| 1 CPU core, loaded | 20 min | nothing published | 5.20 nats a target token; greedy: chrF 13.5, ROUGE-1/2/L 17.5 / 4.6 / 16.9 (seed 0) |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, data="", prefix=("bidirectional", "causal"))
    config = ConfigDict()
    files = {split: f"{arg.data}/{split}.jsonl" for split in ("train", "validation")}
    fields = dict(source="source", target="target")
    config.data = dict(
        source=dict(name="jsonl", kw=dict(**files, fields=fields)) if arg.data else dict(name="python_docstrings", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=4000)),
        packing=dict(name="buckets", kw={}),
    )
    kw = dict(bidirectional_prefix=arg.prefix == "bidirectional", max_target_length=64, label_smoothing=0.1)
    config.task = dict(name="prefix_language_modeling", kw=kw)
    size = dict(num_layers=4, num_heads=4, width=192, norm="rms", position="rotary", mlp="swiglu", use_bias=False, dropout=0.1)
    config.model = dict(name="decoder_only", kw=size)
    config.total_steps = 1000
    config.batch_size = 16
    config.sequence_length = 256
    config.lr = 2e-3
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    scores = dict(metrics=("bleu", "chrf", "rouge"), num_tokens=64, length_factor=0.5)
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", limit=1000)),
        text=dict(name="generation", every="50%", kw=dict(split="validation", limit=64, **scores)),
    )
    config.checkpoint = dict(every="25%", metric="val/loss")
    return config
