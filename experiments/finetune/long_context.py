"""A longer context: a language model trained on rows of 128 tokens learns to read 512, by scaled rotary positions and a little training.

  python -m decoder_lab.main --config=experiments/finetune/long_context.py --workdir=runs/long
  python -m decoder_lab.main --config=experiments/finetune/long_context.py:scaling=none --workdir=runs/long_none

`base` is the run that it begins from (default: runs/quickstart, of experiments/pretrain/stdlib.py, which scripts/quickstart makes; 128
tokens). `scaling` is how rotary positions are brought to four times the length: "yarn" (Peng et al. 2023), "linear" (position
interpolation, Chen et al. 2023), "ntk" (a greater base), or "none". A base with learned positions takes
--config.init_from.stretch=position_embedding, which interpolates its table. For continued pretraining on another domain, change
data.source; the rest stays.

Held-out nats a token at places 0 to 127 / beyond the 128 that the base has seen, of 64 rows; before: at step 0, positions scaled already.
Without scaling the base fails beyond them; 200 steps mend that either way, and what it could do before is kept.

| scaling | hardware | time | expected | before | measured |
|---|---|---|---|---|---|
| yarn | 2 CPU cores, shared, seed 0 | 160 s | beyond below 0-127 | 3.508 / 3.496 | 3.376 / 3.354 |
| none | 2 CPU cores, shared, seed 0 | 120 s | the same | 3.398 / 3.753 | 3.380 / 3.357 |
| linear, ntk | 2 CPU cores, shared | 3 min | the same | not measured | not measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

OLD, NEW = 128, 512
SCALINGS = {
    "yarn": dict(type="yarn", factor=NEW / OLD, original_max_length=OLD),
    "linear": dict(type="linear", factor=NEW / OLD),
    "ntk": dict(type="ntk", factor=NEW / OLD),
    "none": None,
}


def get_config(arg=""):
    arg = parse_argument(arg, base="runs/quickstart", scaling=tuple(SCALINGS))
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_stdlib", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),  # as the base's, whose own copy is taken
        packing=dict(name="split", kw={}),
    )
    config.init_from = dict(workdir=arg.base)
    size = dict(num_layers=3, num_heads=4, width=128, norm="rms", mlp="swiglu", use_bias=False, tie_embeddings=True)  # the base's
    config.model = dict(name="decoder_only", kw=dict(**size, position="rotary", rope_scaling=SCALINGS[arg.scaling]))
    config.total_steps = 200
    config.batch_size = 4
    config.sequence_length = NEW
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="10%", floor=0.0))
    config.evaluators = dict(
        val=dict(name="mean", every="50%", kw=dict(split="validation", limit=64, batch_size=8)),
        places=dict(name="loss_by_position", every="50%", kw=dict(borders=(OLD, 256), split="validation", limit=64, batch_size=8)),
    )
    config.checkpoint = dict(every="50%")
    return config
