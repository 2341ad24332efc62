"""A small language model of Python's own standard library: real code and prose that every Python installation carries.

  python -m decoder_lab.main --config=experiments/pretrain/stdlib.py --workdir=runs/stdlib

This is what `scripts/quickstart` runs. Nothing is downloaded: the text is read from the running interpreter's library (about 11 MB), split
by file.

| size | parameters | hardware | time | expected | measured |
|---|---|---|---|---|---|
| quick | 865,152 | 2 CPU cores | 2 to 3 min | at most 2.2 held-out bits per byte | 1.73 (zlib: 2.04 file by file, lzma: 1.91) |
| small | 26.4 million | one GPU, or CPU hours | - | below quick | not measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, size=("quick", "small"))
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_stdlib", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),
        packing=dict(name="split", kw={}),
    )
    config.model = dict(
        name="decoder_only",
        kw=dict(num_layers=3, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True),
    )
    config.total_steps = 800
    config.batch_size = 16
    config.sequence_length = 128
    config.lr = 4e-3
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.1))
    config.evaluators = dict(
        val=dict(name="mean", every="25%", kw=dict(split="validation", limit=256, batch_size=32)),
        samples=dict(name="samples", every="50%", kw=dict(prompts=("def ", "import "), num_tokens=64)),
    )
    config.checkpoint = dict(every="25%")
    if arg.size == "small":
        config.model["kw"].update(num_layers=8, num_heads=8, width=512)
        config.total_steps, config.batch_size, config.sequence_length, config.dtype = 10000, 64, 512, "bfloat16"
    return config
