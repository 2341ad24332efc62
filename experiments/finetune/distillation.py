"""Knowledge distillation: a language model of a quarter of the size learns from a trained one beside the text itself.

  python -m decoder_lab.main --config=experiments/finetune/distillation.py --workdir=runs/distilled
  python -m decoder_lab.main --config=experiments/finetune/distillation.py --workdir=runs/alone --config.task.kw.alpha=0

`teacher` is the run that it learns from (default: runs/quickstart, of experiments/pretrain/stdlib.py, which scripts/quickstart makes). The
second command trains the same student on the text alone. `hidden` above 0 also brings its hidden states near the teacher's. Another task,
classification for one, goes into task.kw.task, with a run of it as teacher.

| student | parameters | hardware | time | teacher | measured, held-out bits per byte |
|---|---|---|---|---|---|
| distilled | 237,888 | 2 CPU cores, shared, seed 0 | 3 min | 865,152 parameters | 2.195 (nats a token 4.256, KL to the teacher 0.263) |
| alone (alpha 0) | 237,888 | 2 CPU cores, shared, seed 0 | 5 min | none | 2.247 (4.357, KL 0.375) |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, teacher="runs/quickstart", hidden=0.0)
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_stdlib", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),  # as the teacher's, whose own copy is taken
        packing=dict(name="split", kw={}),
    )
    inside = dict(name="language_modeling", kw={})
    config.task = dict(name="distillation", kw=dict(workdir=arg.teacher, task=inside, alpha=0.5, temperature=2.0, hidden_weight=arg.hidden))
    config.model = dict(
        name="decoder_only",
        kw=dict(num_layers=2, num_heads=4, width=64, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True),
    )
    config.total_steps = 400
    config.batch_size = 16
    config.sequence_length = 128
    config.lr = 5e-3
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.0))
    config.evaluators = dict(val=dict(name="mean", every="50%", kw=dict(split="validation", limit=256, batch_size=32)))
    config.checkpoint = dict(every="50%")
    return config
