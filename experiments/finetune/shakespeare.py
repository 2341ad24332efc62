"""A small language model of Python's library, adapted to Shakespeare by one method or another, each at the same number of parameters.

  scripts/compare_adapters                         # pretrains, adapts by every method and seed, prints the table
  python -m decoder_lab.main --config=experiments/finetune/shakespeare.py:method=lora --workdir=runs/adapters/lora_0

Needs the run of experiments/pretrain/stdlib.py, which is what scripts/quickstart makes, as `base` (runs/quickstart), and tiny shakespeare
as experiments/pretrain/shakespeare_char.py does. About 12,000 parameters are trained, 1.4% of the base's 865,152, or as near to it as a
method gets: ia3 has 1,824 and norms 896 to train at all, full all of them.

Hardware: 1 CPU core. Time: half a minute a run. Measured: (five seeds) 3.890 held-out bits a byte before; after, full 2.459 +- 0.006,
pfeiffer 3.078 +- 0.005, houlsby 3.098 +- 0.002, lora_all 3.105 +- 0.008, lora 3.205 +- 0.007, dora 3.235 +- 0.006, adalora 3.275 +- 0.004,
ia3 3.416, norms 3.428 +- 0.001, prompt 3.571 +- 0.002, prefix 3.584 +- 0.001.
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

METHODS = {
    "lora": dict(name="lora", kw=dict(rank=8, alpha=16.0)),  # 12,288
    "lora_all": dict(name="lora", kw=dict(rank=1, alpha=2.0, targets=("(query|key|value|out|up|gate|down)/kernel$",))),  # 7,392
    "dora": dict(name="dora", kw=dict(rank=7, alpha=14.0)),  # 11,520
    "adalora": dict(name="adalora", kw=dict(rank=12, target_rank=8, alpha=24.0)),  # 18,504 at first, 12,312 at the end
    "houlsby": dict(name="bottleneck", kw=dict(style="houlsby", width=7)),  # 11,562
    "pfeiffer": dict(name="bottleneck", kw=dict(style="pfeiffer", width=15)),  # 11,949
    "prefix": dict(name="prefix", kw=dict(num_tokens=16)),  # 12,288
    "prompt": dict(name="prompt", kw=dict(num_tokens=96)),  # 12,288
    "ia3": dict(name="ia3", kw={}),
    "norms": dict(name="freeze", kw=dict(train=("norm/scale$",))),
    "full": None,
}
LR = {"full": 1e-3, "ia3": 1e-2, "norms": 1e-2, "prompt": 3e-2, "prefix": 1e-2}  # the others 5e-3


def get_config(arg=""):
    arg = parse_argument(arg, method=tuple(METHODS), seed=0, base="runs/quickstart", data="data/tinyshakespeare")
    folder = pathlib.Path(arg.data)
    files = dict(train=str(folder / "train.txt"), validation=str(folder / "val.txt"))
    if not (folder / "train.txt").exists():
        files = dict(path=str(folder / "input.txt"), validation_fraction=0.1)
    config = ConfigDict()
    config.seed = arg.seed
    config.data = dict(source=dict(name="text", kw=files), tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)))
    config.model = dict(
        name="decoder_only",
        kw=dict(num_layers=3, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True),
    )
    config.adapt = METHODS[arg.method]
    config.init_from = dict(workdir=arg.base)
    config.total_steps = 400
    config.batch_size = 8
    config.sequence_length = 128
    config.lr = LR.get(arg.method, 5e-3)
    config.weight_decay = 0.0
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.0))
    config.evaluators = dict(val=dict(name="mean", every="25%", kw=dict(split="validation", batch_size=32)))
    if arg.method == "adalora":
        config.evaluators["ranks"] = dict(name="adapter_ranks", every="5%", kw={})
    config.checkpoint = dict(every="100%", keep=1)
    return config
