"""Names of diseases in abstracts: a BiLSTM-CRF that reads characters (Lample et al. 2016; Ma & Hovy 2016), from scratch.

  python -m decoder_lab.main --config=experiments/tagging/ncbi_disease.py:data=FOLDER --workdir=runs/ncbi
  python -m decoder_lab.main --config=experiments/tagging/ncbi_disease.py:data=FOLDER,crf=false --workdir=runs/ncbi_softmax

Data: NCBI disease (Dogan et al. 2014) in CoNLL columns, as cambridgeltl/MTL-Bioinformatics-2016 hands it out: FOLDER with train.tsv[.gz]
and devel.tsv[.gz]. Arguments: crf=true|false, characters=cnn|lstm|none.

| top | hardware | time | expected (span F1 on devel) | measured: best of the 8 epochs, last epoch (three seeds) |
|---|---|---|---|---|
| CRF | 1 CPU core, shared | 2 min | at least 78, and above softmax | 81.5 +- 0.8, 81.0 +- 1.0 |
| softmax (crf=false) | 1 CPU core, shared | 2 min | - | 76.4 +- 0.4, 76.4 +- 0.4 |

The best epoch is chosen on the same devel that is reported. The most frequent tag of each word gives 48.2 on the held-out test part.
"""

import pathlib

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, data="data/ncbi_disease", crf=True, characters=("cnn", "lstm", "none"))
    folder = pathlib.Path(arg.data)
    files = {split: _either(folder, name) for split, name in (("train", "train.tsv"), ("validation", "devel.tsv"))}
    config = ConfigDict()
    config.data = dict(
        source=dict(name="conll", kw=files),
        tokenizer=dict(name="word", kw={}),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="tagging", kw=dict(scheme="BIO", lower_case=True, zero_digits=True, word_dropout=0.1))
    encoder = dict(cell="lstm", width=100, embedding_dim=100, bidirectional=True, dropout=0.5)
    config.model = dict(
        name="tagger",
        kw=dict(encoder=dict(name="recurrent", kw=encoder), characters=arg.characters, crf=arg.crf, dropout=0.5),
    )
    config.total_epochs = 8.0
    config.batch_size = 16
    config.sequence_length = 160
    config.lr = 3e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw=dict(b2=0.99))
    config.schedule = dict(name="cosine", kw=dict(warmup="2%", floor=0.0))
    config.evaluators = dict(
        val=dict(name="mean", every="1 epochs", kw=dict(split="validation", batch_size=64)),
        spans=dict(name="span_f1", every="1 epochs", kw=dict(split="validation", batch_size=64)),
    )
    config.checkpoint = dict(every="1 epochs", keep=1, metric="spans/f1", mode="max")
    return config


def _either(folder: pathlib.Path, name: str) -> str:
    """Returns the path of a file, or of its .gz where only that is there."""
    packed = folder / f"{name}.gz"
    return str(packed if packed.is_file() else folder / name)
