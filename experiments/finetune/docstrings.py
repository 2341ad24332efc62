"""The small language model of Python's library learns to say what a function does: LoRA on the model that scripts/quickstart trains.

  python -m decoder_lab.main --config=experiments/finetune/docstrings.py --workdir=runs/docstrings
  python -m decoder_lab.main --mode=generate --workdir=runs/docstrings --prompt="def double(x):\n    return 2 * x" --temperature=0
  python -m decoder_lab.main --mode=merge --workdir=runs/docstrings --output=runs/docstrings_merged

Needs the run of experiments/pretrain/stdlib.py as `base` (runs/quickstart). Functions and docstrings are those of the running interpreter's
library; files that the base was not trained on are held out here too. At step 0 the base itself is evaluated.

Hardware: 2 CPU cores. Time: 2 minutes. Measured: with one seed, before and after,
nats a token of held-out docstrings 5.35 and 4.28, ROUGE-L 5.0 and 13.8, chrF 10.9 and 12.2; texts without an end 100% and 6%.
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, base="runs/quickstart")
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_docstrings", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),
        packing=dict(name="buckets", kw={}),
    )
    config.task = dict(name="prefix_language_modeling", kw=dict(bidirectional_prefix=False, max_source_length=144, max_target_length=48))
    config.model = dict(
        name="decoder_only",
        kw=dict(num_layers=3, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True),
    )
    targets = ("(query|key|value|out|up|gate|down)/kernel$",)
    config.adapt = dict(name="lora", kw=dict(rank=8, alpha=16.0, targets=targets))
    config.init_from = dict(workdir=arg.base)
    config.total_steps = 500
    config.batch_size = 16
    config.sequence_length = 192
    config.lr = 5e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.0))
    scores = dict(metrics=("chrf", "rouge"), num_tokens=48)
    config.evaluators = dict(
        val=dict(name="mean", every="25%", kw=dict(split="validation", limit=512)),
        text=dict(name="generation", every="100%", kw=dict(split="validation", limit=64, **scores)),
    )
    config.checkpoint = dict(every="25%")
    return config
