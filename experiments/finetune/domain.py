"""Continued pretraining on another domain: the small model of Python's library reads Shakespeare, alone or beside what it read before.

  python -m decoder_lab.main --config=experiments/finetune/domain.py:data=data/tinyshakespeare --workdir=runs/domain
  python -m decoder_lab.main --config=experiments/finetune/domain.py:data=data/tinyshakespeare,replay=0.25 --workdir=runs/domain_replay

What became of the old domain, and of the new one where both were trained on:

  python -m decoder_lab.main --mode=evaluate --workdir=runs/domain --split=validation --config.data.source.name=python_stdlib

Needs the run of experiments/pretrain/stdlib.py as `base` (runs/quickstart, which scripts/quickstart makes); `data` is a folder with
train.txt and val.txt. `replay` is the share of rows that are of the old domain. The learning rate warms up again, to a quarter of what the
base had.

| replay | hardware | time | before: held-out bits a byte of Shakespeare, of Python's library | measured: the same after |
|---|---|---|---|---|
| 0 | 2 CPU cores, loaded | 2 min | 3.890, 1.726 | 2.459, 2.899 (seed 0): most of the old domain is forgotten |
| 0.25 | 2 CPU cores, loaded | 2 min | 3.890, 1.726 | 2.553, 1.802 (seed 0) |
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, base="runs/quickstart", data="data/tinyshakespeare", replay=0.0)
    folder = pathlib.Path(arg.data)
    new = dict(name="text", kw=dict(train=str(folder / "train.txt"), validation=str(folder / "val.txt")))
    config = ConfigDict()
    config.data = dict(
        source=new,
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),  # as the base's, whose own copy is taken
        packing=dict(name="split", kw={}),
    )
    if arg.replay:
        parts = dict(new=new, old=dict(name="python_stdlib", kw={}))
        config.data.source = dict(name="mixture", kw=dict(parts=parts, weights=dict(new=1 - arg.replay, old=arg.replay)))
    config.init_from = dict(workdir=arg.base)
    config.model = dict(
        name="decoder_only",
        kw=dict(num_layers=3, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True),
    )
    config.total_steps = 300
    config.batch_size = 16
    config.sequence_length = 128
    config.lr = 1e-3
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="10%", floor=0.0))
    config.evaluators = dict(
        val=dict(name="mean", every="50%", kw=dict(split="validation", limit=256, batch_size=32)),
        samples=dict(name="samples", every="100%", kw=dict(prompts=("ROMEO:", "def "), num_tokens=64)),
    )
    config.checkpoint = dict(every="50%")
    return config
