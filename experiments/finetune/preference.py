"""Preference tuning (DPO, IPO, SimPO, ORPO): of two answers a tuned language model comes to prefer the chosen one.

  python -m decoder_lab.main --config=experiments/finetune/instruction.py --workdir=runs/instruction
  python -m decoder_lab.main --config=experiments/finetune/preference.py --workdir=runs/dpo
  python -m decoder_lab.main --config=experiments/finetune/preference.py:loss=simpo --workdir=runs/simpo
  python -m decoder_lab.main --config=experiments/finetune/preference.py:data=FOLDER --workdir=runs/dpo

`base` is the run that it begins from, and that DPO and IPO hold it to (default: runs/instruction, the first command). `data` is a folder
with preference.json.gz, a list of {"instruction", "input", "chosen", "rejected"}, a tenth of it held out (default: functions of the running
interpreter's library, their docstring chosen, that of another function rejected; nothing is downloaded). Accuracy: held-out pairs whose
chosen answer has the greater implicit reward; log-probabilities are of whole answers.

| loss | hardware | time | expected | measured |
|---|---|---|---|---|
| dpo, offline | 2 CPU cores, shared, seed 0 | 3 min | 0.693 at step 0 | loss 0.666, accuracy 60.4% best; 0.671, 57.9% last |
| dpo, 989 pairs | 2 CPU cores, shared, seed 0 | 65 s | 0.693 at step 0 | loss 0.307, accuracy 81.8% |
| ipo, simpo, orpo | 2 CPU cores | 3 min | nothing published | not measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

LOSSES = {"dpo": dict(beta=0.1), "ipo": dict(beta=0.1), "simpo": dict(beta=2.0, target_margin=1.0), "orpo": dict(beta=0.5)}


def get_config(arg=""):
    arg = parse_argument(arg, data="", base="runs/instruction", loss=tuple(LOSSES))
    config = ConfigDict()
    files = dict(path=f"{arg.data}/preference.json.gz", fields=dict(source=("instruction", "input")))
    config.data = dict(
        source=dict(name="json", kw=files) if arg.data else dict(name="python_docstrings", kw=dict(rejected="other")),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),  # as the base's, whose own copy is taken
        packing=dict(name="buckets", kw=dict(num_buckets=3)),
    )
    config.init_from = dict(workdir=arg.base)
    system = "" if arg.data else "Write the docstring of this function."  # as the base was tuned
    config.task = dict(name="preference", kw=dict(loss=arg.loss, system=system, **LOSSES[arg.loss]))
    config.model = dict(  # the base's
        name="decoder_only",
        kw=dict(num_layers=3, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True),
    )
    config.total_steps = 120
    config.batch_size = 4
    config.sequence_length = 256
    config.lr = 3e-4
    config.weight_decay = 0.0
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="linear", kw=dict(warmup="10%"))
    config.evaluators = dict(val=dict(name="mean", every="25%", kw=dict(split="validation", batch_size=8)))
    config.checkpoint = dict(every="25%")
    return config
