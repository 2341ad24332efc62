"""A small BERT of Python's own standard library, to begin classifiers, taggers and readers from.

  python -m decoder_lab.main --config=experiments/pretrain/masked_lm.py --workdir=runs/masked_lm
  python -m decoder_lab.main --config=experiments/pretrain/masked_lm.py:size=bert-base,data=corpus/*.txt --workdir=runs/bert

`data` is a glob of text files (default: the running interpreter's library, nothing is downloaded). Its encoder starts another model with
`--config.init_from.workdir=runs/masked_lm` where that has the same encoder; parameters below `encoder/` have the same names there.

| size | parameters | hardware | time | expected | measured |
|---|---|---|---|---|---|
| quick, WikiText-2 (valid.txt.gz) | 1,085,057 | 1 CPU core, shared | 8 min | nothing published | 3.88 nats a hidden token, 30.8% right |
| quick | 1,085,057 | 1 CPU core, shared | 4 min | nothing published | 4.25 nats a hidden token, 24.5% right (7.67 nats before; seed 0) |
| bert-tiny to bert-large | published, see models/masked_lm.py | one GPU or more | - | - | not measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

SIZES = ("quick", "bert-tiny", "bert-mini", "bert-small", "bert-medium", "bert-base", "bert-large")


def get_config(arg=""):
    arg = parse_argument(arg, size=SIZES, data="")
    quick = arg.size == "quick"
    config = ConfigDict()
    config.data = dict(
        source=dict(name="text", kw=dict(path=arg.data)) if arg.data else dict(name="python_stdlib", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048 if quick else 30000)),
        packing=dict(name="split", kw={}),
    )
    config.task = dict(name="masked_language_modeling", kw={})
    encoder = dict(num_layers=4, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False)
    config.model = dict(name="masked_lm", kw=dict(encoder=dict(name="transformer", kw=encoder if quick else dict(variant=arg.size))))
    config.total_steps = 1500 if quick else 100_000
    config.batch_size = 16 if quick else 256
    config.sequence_length = 128 if quick else 512
    config.dtype = "float32" if quick else "bfloat16"
    config.lr = 3e-3 if quick else 1e-4
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.1))
    config.evaluators = dict(val=dict(name="mean", every="10%", kw=dict(split="validation", limit=512, batch_size=32)))
    config.checkpoint = dict(every="25%", metric="val/loss")
    return config
