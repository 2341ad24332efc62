"""CMRC 2018: Chinese questions on Wikipedia, read character by character, scored by the official script's rules.

  python -m decoder_lab.main --config=experiments/question_answering/cmrc2018.py:data=FOLDER --workdir=runs/cmrc2018

Data: FOLDER with cmrc2018_train.json[.gz] and cmrc2018_dev.json[.gz]; where only the dev file is there, a tenth of its paragraphs is held
out and the rest is trained on: figures of such runs stand beside no published one. Arguments: model=bidaf|recurrent|transformer.

| hardware | time | published (dev) | measured |
|---|---|---|---|
| one GPU, or a CPU hour | - | BERT 63.5 exact match, 83.6 F1 (pretrained, whole train set) | not measured |
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument
from decoder_lab.core.errors import UserError


def get_config(arg=""):
    arg = parse_argument(arg, data="data/cmrc2018", model=("bidaf", "recurrent", "transformer"))
    config = ConfigDict()
    config.data = dict(
        source=dict(name="squad", kw=_files(pathlib.Path(arg.data))),
        tokenizer=dict(name="word", kw=dict(min_count=2)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="question_answering", kw=dict(lower_case=True, max_question_length=40, max_answer_length=50))
    encoder = dict(name="recurrent", kw=dict(cell="lstm", width=128, embedding_dim=100, num_layers=2, bidirectional=True, dropout=0.3))
    if arg.model == "transformer":
        encoder = dict(name="transformer", kw=dict(num_layers=4, num_heads=4, width=256, dropout=0.1))
    if arg.model == "bidaf":
        config.model = dict(name="bidaf", kw=dict(embedding_dim=100, width=100, features=True, dropout=0.3))
    else:
        config.model = dict(name="span_extractor", kw=dict(encoder=encoder, dropout=0.3))
    config.total_epochs = 10.0
    config.batch_size = 16
    config.sequence_length = 400
    config.lr = 1e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw={})
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.0))
    config.evaluators = dict(
        val=dict(name="mean", every="1 epochs", kw=dict(split="validation", batch_size=16)),
        answers=dict(name="question_answering", every="1 epochs", kw=dict(split="validation", batch_size=16, rules="cmrc2018")),
    )
    config.checkpoint = dict(every="1 epochs", keep=1, metric="answers/f1", mode="max")
    return config


def _files(folder: pathlib.Path) -> dict:
    """Returns which files are which split. Errors: UserError where there is no dev file."""
    found = {
        name: [p for p in (folder / f"cmrc2018_{name}.json", folder / f"cmrc2018_{name}.json.gz") if p.is_file()]
        for name in ("train", "dev")
    }
    if not found["dev"]:
        raise UserError(f"expected cmrc2018_dev.json or cmrc2018_dev.json.gz in {folder}/. Say --config=...:data=FOLDER.")
    if found["train"]:
        return dict(train=str(found["train"][0]), validation=str(found["dev"][0]))
    return dict(path=str(found["dev"][0]), validation_fraction=0.1)
