"""What a voice assistant is asked for, and the slots of the request: intent and slots by one BiLSTM with two heads, from scratch.

  python -m decoder_lab.main --config=experiments/tagging/snips.py:data=FOLDER --workdir=runs/snips
  python -m decoder_lab.main --mode=predict --workdir=runs/snips --input=utterances.txt

Data: SNIPS (Coucke et al. 2018) as MiuLab/SlotGated-SLU hands it out: FOLDER with train/ and valid/, each with seq.in, seq.out and label
(.gz or not). Arguments: crf=true|false.

| hardware | time | expected (Goo et al. 2018, on test) | measured on valid, last of 6 epochs, also the best (three seeds) |
|---|---|---|---|
| 1 CPU core, shared | 2 min | slot F1 88.8, intent 97.0, whole utterances 75.5 | 93.2 +- 0.4, 98.0 +- 0.1, 83.0 +- 0.6 |
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, data="data/snips", crf=True)
    folder = pathlib.Path(arg.data)
    config = ConfigDict()
    config.data = dict(
        source=dict(name="slot_filling", kw=dict(train=_files(folder / "train"), validation=_files(folder / "valid"))),
        tokenizer=dict(name="word", kw={}),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="intent_slots", kw=dict(scheme="BIO", lower_case=True))
    encoder = dict(cell="lstm", width=100, embedding_dim=100, bidirectional=True, dropout=0.4)
    config.model = dict(
        name="intent_slots",
        kw=dict(encoder=dict(name="recurrent", kw=encoder), characters="cnn", crf=arg.crf, dropout=0.4, pooling="attention"),
    )
    config.total_epochs = 6.0
    config.batch_size = 32
    config.sequence_length = 64
    config.lr = 3e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw=dict(b2=0.99))
    config.schedule = dict(name="cosine", kw=dict(warmup="2%", floor=0.0))
    config.evaluators = dict(
        val=dict(name="mean", every="1 epochs", kw=dict(split="validation", batch_size=64)),
        slots=dict(name="span_f1", every="1 epochs", kw=dict(split="validation", batch_size=64, table=False)),
    )
    config.checkpoint = dict(every="1 epochs", keep=1, metric="slots/f1", mode="max")
    return config


def _files(folder: pathlib.Path) -> str:
    """Returns the three files of a split, {} for the side, as .gz where only those are there."""
    return str(folder / ("{}.gz" if (folder / "seq.in.gz").is_file() else "{}"))
