"""A reward model: a score for an answer, greater for the better one; the language model below it is a pretrained one.

  python -m decoder_lab.main --config=experiments/finetune/reward.py --workdir=runs/reward
  python -m decoder_lab.main --mode=predict --workdir=runs/reward --input=pairs.jsonl
  python -m decoder_lab.main --config=experiments/finetune/reward.py:data=FOLDER --workdir=runs/reward

`base` is the language model whose parameters are taken (default: runs/quickstart, of experiments/pretrain/stdlib.py, which
scripts/quickstart makes). `data` is a folder with preference.json.gz, a list of {"instruction", "input", "chosen", "rejected"}, a tenth of
it held out (default: functions of the running interpreter's library, their docstring chosen, its words in another order rejected; nothing
is downloaded). Accuracy: held-out pairs whose chosen answer has the greater score.

| data | hardware | time | a floor | measured |
|---|---|---|---|---|
| offline | 2 CPU cores, shared, seed 0 | 2 min | 50% | accuracy 96.1% |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, data="", base="runs/quickstart")
    config = ConfigDict()
    files = dict(path=f"{arg.data}/preference.json.gz", fields=dict(source=("instruction", "input")))
    config.data = dict(
        source=dict(name="json", kw=files) if arg.data else dict(name="python_docstrings", kw=dict(rejected="shuffled")),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2048)),  # as the base's, whose own copy is taken
        packing=dict(name="buckets", kw=dict(num_buckets=3)),
    )
    config.init_from = dict(workdir=arg.base, rename={"^": "decoder/"})
    config.task = dict(name="reward", kw={})
    decoder = dict(num_layers=3, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu", use_bias=False, tie_embeddings=True)
    config.model = dict(name="decoder_classifier", kw=dict(decoder=dict(name="transformer", kw=decoder)))  # the base's
    config.total_steps = 150
    config.batch_size = 4
    config.sequence_length = 256
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="linear", kw=dict(warmup="10%"))
    config.evaluators = dict(val=dict(name="mean", every="25%", kw=dict(split="validation", batch_size=8)))
    config.checkpoint = dict(every="25%", metric="val/accuracy", mode="max")
    return config
