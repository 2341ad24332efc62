"""A small T5 of Python's own standard library: an encoder-decoder that writes the spans that were cut out of a text.

  python -m decoder_lab.main --config=experiments/pretrain/span_corruption.py --workdir=runs/span_corruption
  python -m decoder_lab.main --config=experiments/pretrain/span_corruption.py:size=t5-small,data=corpus/*.txt --workdir=runs/t5

`data` is a glob of text files (default: the running interpreter's library, nothing is downloaded).

| size | parameters | hardware | time | expected | measured |
|---|---|---|---|---|---|
| quick | 1,678,208 | 1 CPU core, shared | 8 min | nothing published | 3.97 nats a target token, 31.8% right (7.69 nats before; seed 0) |
| t5-small, t5-base, t5-v1.1-small | published, see models/encoder_decoder.py | one GPU or more | - | - | not measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, size=("quick", "t5-small", "t5-base", "t5-v1.1-small"), data="")
    quick = arg.size == "quick"
    config = ConfigDict()
    config.data = dict(
        source=dict(name="text", kw=dict(path=arg.data)) if arg.data else dict(name="python_stdlib", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048 if quick else 32000)),
        packing=dict(name="split", kw={}),
    )
    config.task = dict(name="span_corruption", kw=dict(num_sentinels=100))
    side = dict(num_layers=3, num_heads=4, width=128, norm="rms", position="t5", mlp="geglu", use_bias=False)
    sides = {name: dict(name="transformer", kw=dict(side)) for name in ("encoder", "decoder")}
    config.model = dict(name="encoder_decoder", kw=dict(**sides, share_embeddings=True) if quick else dict(variant=arg.size))
    config.total_steps = 1500 if quick else 100_000
    config.batch_size = 16 if quick else 128
    config.sequence_length = 128 if quick else 512
    config.dtype = "float32" if quick else "bfloat16"
    config.lr = 3e-3 if quick else 1e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.1))
    config.evaluators = dict(val=dict(name="mean", every="10%", kw=dict(split="validation", limit=512, batch_size=32)))
    config.checkpoint = dict(every="25%", metric="val/loss")
    return config
