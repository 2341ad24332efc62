"""Questions on functions of Python's own library whose answer is a parameter's name: extractive question answering without a download.

  python -m decoder_lab.main --config=experiments/question_answering/stdlib_parameters.py --workdir=runs/parameters

Contexts and answers come from the running interpreter's library and its parser, split by file. Arguments: model=span|bidaf,
no_answer=true: of each fourth function a default value is asked for that no parameter has, and answers are scored by the rules of SQuAD
2.0, where the model says "" once it finds "not here" likelier than its best span.

| model | no_answer | hardware | time | expected (exact match) | measured on 512 held-out questions: best, last of 4 evaluations (seed 0) |
|---|---|---|---|---|---|
| span | false | 2 CPU cores, shared | 4 min | far above the untrained model's 7.0 | 90.8, 90.0 |
| span | true | 1 CPU core, shared | 110 s | the same | 90.2, 90.2; at the last 89.9 where there is an answer, 94.6 where there is none |
| bidaf | false | 1 CPU core, shared | 166 s | the same | 93.0, 93.0 |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, model=("span", "bidaf"), no_answer=False)
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_parameters", kw=dict(no_answer=arg.no_answer)),
        tokenizer=dict(name="word", kw=dict(min_count=3)),
        packing=dict(name="buckets", kw=dict(by="examples", num_buckets=4)),
    )
    config.task = dict(name="question_answering", kw=dict(max_question_length=32, max_answer_length=1, stride=96))
    encoder = dict(cell="lstm", width=64, embedding_dim=48, num_layers=2, bidirectional=True, dropout=0.1)
    if arg.model == "span":
        config.model = dict(name="span_extractor", kw=dict(encoder=dict(name="recurrent", kw=encoder), dropout=0.1))
    else:
        config.model = dict(name="bidaf", kw=dict(embedding_dim=48, width=48, features=True, dropout=0.1))
    config.total_steps = 800
    config.batch_size = 16
    config.sequence_length = 192
    config.lr = 3e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw=dict(b2=0.99))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%", floor=0.0))
    rules = dict(rules="squad2", no_answer_threshold=0.0) if arg.no_answer else dict(rules="squad")
    config.evaluators = dict(
        val=dict(name="mean", every="25%", kw=dict(split="validation", limit=512, batch_size=32)),
        answers=dict(name="question_answering", every="25%", kw=dict(split="validation", limit=512, batch_size=32, **rules)),
    )
    config.checkpoint = dict(every="25%", keep=1, metric="answers/exact_match", mode="max")
    return config
