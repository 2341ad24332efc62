"""Instruction tuning: a pretrained language model learns to answer, and to stop.

  python -m decoder_lab.main --config=experiments/finetune/instruction.py --workdir=runs/instruction
  python -m decoder_lab.main --mode=generate --workdir=runs/instruction --prompt="def double(x):\n    return 2 * x"
  python -m decoder_lab.main --config=experiments/finetune/instruction.py:data=FOLDER --workdir=runs/instruction

`base` is the run that it begins from (default: runs/quickstart, of experiments/pretrain/stdlib.py, which scripts/quickstart makes). `data`
is a folder with train.json and val.json, lists of {"instruction", "input", "output"} (default: functions and the first paragraphs of their
docstrings from the running interpreter's library, nothing is downloaded). Only the answers are learned, and the end of each; several
conversations share a row. Loss: held-out nats a token of the answers; chrF of up to 64 greedy answers (28% offline and 5% otherwise did not
end by themselves).

| data | hardware | time | expected | measured |
|---|---|---|---|---|
| offline | 2 CPU cores, shared, seed 0 | 100 s | nothing published | loss 5.31 before, 4.14 after; chrF 10.5 |
| 935 instructions | 2 CPU cores, shared, seed 0 | 84 s | nothing published | loss 5.64 before, 3.01 best, 3.03 last; chrF 24.0 |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, data="", base="runs/quickstart")
    config = ConfigDict()
    files = dict(train=f"{arg.data}/train.json", validation=f"{arg.data}/val.json")
    fields = dict(source=("instruction", "input"), target="output")
    config.data = dict(
        source=dict(name="json", kw=dict(**files, fields=fields)) if arg.data else dict(name="python_docstrings", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),  # as the base's, whose own copy is taken
        packing=dict(name="packed", kw={}),
    )
    config.init_from = dict(workdir=arg.base)
    config.task = dict(name="instruction", kw=dict(system="" if arg.data else "Write the docstring of this function."))
    config.model = dict(  # the base's
        name="decoder_only",
        kw=dict(num_layers=3, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True),
    )
    config.total_steps = 300
    config.batch_size = 8
    config.sequence_length = 256
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    scores = dict(metrics=("bleu", "chrf"), num_tokens=48, length_factor=0.5)
    config.evaluators = dict(
        val=dict(name="mean", every="25%", kw=dict(split="validation", limit=500)),
        text=dict(name="generation", every="100%", kw=dict(split="validation", limit=64, **scores)),
    )
    config.checkpoint = dict(every="25%")
    return config
