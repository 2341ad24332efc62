"""Pairs of sentences of GLUE (Wang et al. 2019), from its own TSV files: the same meaning, one following from the other, or a score.

  python -m decoder_lab.main --config=experiments/classification/glue.py:set=mrpc,data=FOLDER --workdir=runs/mrpc
  python -m decoder_lab.main --config=experiments/classification/glue.py:set=stsb,data=FOLDER,encoder=bert --workdir=runs/stsb

Data: FOLDER with train.tsv and dev.tsv as GLUE hands them out. From scratch a few thousand pairs teach little; encoder=bert has the size
of BERT-base and is meant to begin from a pretrained one (--config.init_from..., --config.lr=2e-5, --config.total_epochs=3).

| set | pairs | hardware | time | published (test): BERT-base, pretrained (Devlin et al. 2019) | measured |
|---|---|---|---|---|---|
| mrpc | 3,668 paraphrases or not | - | - | F1 88.9 | not measured: the files are not at hand |
| rte | 2,490, entailed or not | - | - | accuracy 66.4 | not measured: the same |
| qnli | 104,743, question and answering sentence | - | - | accuracy 90.5 | not measured: the same |
| stsb | 5,749, similarity from 0 to 5 | - | - | Spearman 85.8 | not measured: the same |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

# set -> (columns of the files, epochs)
SETS = {
    "mrpc": (dict(text="#1 String", text_pair="#2 String", label="Quality"), 10.0),
    "rte": (dict(text="sentence1", text_pair="sentence2", label="label"), 10.0),
    "qnli": (dict(text="question", text_pair="sentence", label="label"), 3.0),
    "stsb": (dict(text="sentence1", text_pair="sentence2", label="score"), 10.0),
}


def get_config(arg=""):
    arg = parse_argument(arg, data="data/glue", set=tuple(SETS), encoder=("transformer", "bag", "cnn", "lstm", "gru", "bert"))
    fields, epochs = SETS[arg.set]
    files = dict(train=f"{arg.data}/train.tsv", validation=f"{arg.data}/dev.tsv", encoding="utf-8-sig")  # some begin with a byte order mark
    config = ConfigDict()
    config.data = dict(
        source=dict(name="tsv", kw=dict(fields=fields, **files)),
        tokenizer=dict(name="word", kw=dict(pattern=r"\w+|[^\w\s]", lowercase=True, min_count=2)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    kind = "score" if arg.set == "stsb" else "single"
    config.task = dict(name="classification", kw=dict(kind=kind, pairs="separator"))
    config.model = dict(name="classifier", kw=dict(variant=arg.encoder))
    if arg.encoder in ("transformer", "bert"):  # it is told which text a token is of; the others see the separator
        config.task.kw.pairs = "types"
        config.model.kw.encoder = dict(kw=dict(num_types=2))
    config.total_epochs = epochs
    config.batch_size = 32
    config.sequence_length = 128
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.05))
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation")),
        report=dict(name="classification_report", every="10%", kw=dict(split="validation")),
    )
    config.checkpoint = dict(every="10%", metric="report/spearman" if kind == "score" else "report/accuracy", mode="max")
    return config
