"""Grokking: addition modulo 97 is known by heart long before it is understood (Power et al. 2022, arXiv:2201.02177).

  python -m decoder_lab.main --config=experiments/classification/grokking.py --workdir=runs/grokking
  python -m decoder_lab.report.generalisation runs/grokking

Half of all pairs (a, b) are for training, the other half for validation. A Transformer of 2 layers, 128 wide, 4 heads, reads "a + b =" and
says which of 97 numbers it is. AdamW with a weight decay of 1 on every parameter. The accuracy on training pairs reaches 1 within some
hundred steps, that on the others stays low and rises late; the second command draws both over the steps, on a logarithmic axis.

| hardware | time | expected | measured |
|---|---|---|---|
| 2 CPU cores | minutes | held-out accuracy above 0.99, later than training | 0.99 of training pairs at step 350, of the others at 700 |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, share=0.5, operation=("+", "-", "*", "/"))
    config = ConfigDict()
    config.data = dict(
        source=dict(name="synthetic", kw=dict(kind="modular", operation=arg.operation, train_share=arg.share)),
        tokenizer=dict(name="word", kw={}),
        packing=dict(name="buckets", kw=dict(by="examples")),
    )
    config.task = dict(name="classification", kw={})
    encoder = dict(num_layers=2, num_heads=4, width=128, norm_position="pre", mlp="relu", position="learned")
    config.model = dict(name="classifier", kw=dict(encoder=dict(name="transformer", kw=encoder), pooling="last"))
    config.total_steps = 3000
    config.batch_size = 512
    config.sequence_length = 8
    config.lr = 1e-3
    config.weight_decay = 1.0
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98), no_decay=())
    config.schedule = dict(name="constant", kw=dict(warmup="10 steps"))
    both = {name: dict(name="mean", every="50 steps", kw=dict(split=name, batch_size=1024)) for name in ("train", "validation")}
    config.evaluators = dict(known=both["train"], val=both["validation"])
    config.checkpoint = dict(every="25%", metric="val/accuracy", mode="max")
    return config
