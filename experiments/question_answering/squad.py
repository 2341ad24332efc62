"""SQuAD 1.1 from scratch: bidirectional attention flow (Seo et al. 2017), or any encoder with start and end of a span.

  python -m decoder_lab.main --config=experiments/question_answering/squad.py:data=FOLDER --workdir=runs/squad

Data: FOLDER with train*.json[.gz] and dev*.json[.gz] of SQuAD 1.1, or of 2.0 with version=2. Arguments: model=bidaf|recurrent|transformer,
version=1|2.

| model | hardware | time | published (dev, whole train set, GloVe) | measured |
|---|---|---|---|---|
| bidaf | one GPU, or CPU hours | - | 67.7 exact match, 77.3 F1 | not measured |
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument
from decoder_lab.core.errors import UserError


def get_config(arg=""):
    arg = parse_argument(arg, data="data/squad", model=("bidaf", "recurrent", "transformer"), version=(1, 2))
    config = ConfigDict()
    files = dict(train=_only(arg.data, "train"), validation=_only(arg.data, "dev"))
    config.data = dict(
        source=dict(name="squad", kw=files),
        tokenizer=dict(name="word", kw=dict(min_count=2, max_size=50_000)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    characters = 16 if arg.model == "bidaf" else 0
    config.task = dict(name="question_answering", kw=dict(lower_case=True, max_question_length=40, max_characters=characters))
    encoder = dict(name="recurrent", kw=dict(cell="lstm", width=128, embedding_dim=100, num_layers=2, bidirectional=True, dropout=0.2))
    if arg.model == "transformer":
        encoder = dict(name="transformer", kw=dict(num_layers=4, num_heads=4, width=256, dropout=0.1))
    if arg.model == "bidaf":
        config.model = dict(name="bidaf", kw=dict(variant="seo2017"))
    else:
        config.model = dict(name="span_extractor", kw=dict(encoder=encoder, dropout=0.2))
    config.total_epochs = 12.0
    config.batch_size = 32
    config.sequence_length = 400
    config.lr = 1e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw={})
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.0))
    rules = dict(rules="squad2", no_answer_threshold=0.0) if arg.version == 2 else dict(rules="squad")
    config.evaluators = dict(
        val=dict(name="mean", every="1 epochs", kw=dict(split="validation", batch_size=32)),
        answers=dict(name="question_answering", every="1 epochs", kw=dict(split="validation", batch_size=32, **rules)),
    )
    config.checkpoint = dict(every="1 epochs", keep=1, metric="answers/f1", mode="max")
    return config


def _only(folder: str, beginning: str) -> str:
    """Returns the one JSON file of a folder whose name begins so."""
    found = sorted(p for p in pathlib.Path(folder).glob(f"{beginning}*") if p.name.endswith((".json", ".json.gz")))
    if len(found) != 1:
        there = ", ".join(p.name for p in found) or "none"
        raise UserError(
            f"expected one file {beginning}*.json or {beginning}*.json.gz in {folder}/, found {there}. Say --config=...:data=FOLDER."
        )
    return str(found[0])
