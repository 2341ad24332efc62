"""A character model of Shakespeare, after nanoGPT's two recipes for it.

  python -m decoder_lab.main --config=experiments/pretrain/shakespeare_char.py --workdir=runs/shakespeare
  python -m decoder_lab.main --config=experiments/pretrain/shakespeare_char.py:size=gpu --workdir=runs/shakespeare_gpu

Data: `data/tinyshakespeare/` (or `:data=FOLDER`) with `train.txt` and `val.txt`, or with the one file `input.txt` of 1,115,394 characters
that is published as "tiny shakespeare"; its last tenth is then held out.

| size | parameters | hardware | time | expected (nanoGPT) | measured here |
|---|---|---|---|---|---|
| cpu | 804,096 | 2 CPU cores | 2 to 3 min | 1.88 nats a character on the last tenth | 1.733 (3 seeds: 1.727 to 1.737; see below) |
| gpu | 10,745,088 | one GPU | minutes | 1.4697 (best, sampled, on the last tenth) | not measured here |

Measured on a `val.txt` that is the first half of the last tenth, by a full sequential pass. The learning rate of `cpu` is 3e-3; with
nanoGPT's own 1e-3 (--config.lr=1e-3) it is 1.880 there, and Hugging Face's GPT-2 on torch, trained with the same numbers, ends at 1.871.
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument
from decoder_lab.core.errors import UserError


def get_config(arg=""):
    arg = parse_argument(arg, size=("cpu", "gpu"), data="data/tinyshakespeare")
    cpu = arg.size == "cpu"
    config = ConfigDict()
    config.total_steps = 2000 if cpu else 5000
    config.batch_size = 12 if cpu else 64
    config.sequence_length = 64 if cpu else 256
    config.dtype = "float32" if cpu else "bfloat16"
    config.lr = 3e-3 if cpu else 1e-3
    config.weight_decay = 0.1
    config.schedule = dict(name="cosine", kw=dict(warmup="100 steps", floor=0.1))
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.99))
    dropout = 0.0 if cpu else 0.2
    kw = dict(variant="nanogpt_cpu" if cpu else "nanogpt_char", dropout=dropout, attention_dropout=dropout)
    config.model = dict(name="decoder_only", kw=kw)
    folder = pathlib.Path(arg.data)
    if (folder / "input.txt").is_file():
        files = dict(path=str(folder / "input.txt"), validation_fraction=0.1)
    elif (folder / "train.txt").is_file():
        files = dict(train=str(folder / "train.txt"), validation=str(folder / "val.txt"))
    else:
        raise UserError(f"expected input.txt, or train.txt and val.txt, in {folder}/. Put the text there, or say --config=...:data=FOLDER.")
    config.data = dict(
        source=dict(name="text", kw=files),
        tokenizer=dict(name="character", kw={}),
        packing=dict(name="windows", kw={}),
    )
    config.evaluators = dict(
        val=dict(name="mean", every="250 steps", kw=dict(split="validation", batch_size=128)),
        samples=dict(name="samples", every="500 steps", kw=dict(num_tokens=200)),
    )
    config.checkpoint = dict(every="250 steps", keep=2, keep_best=1, metric="val/loss")
    return config
