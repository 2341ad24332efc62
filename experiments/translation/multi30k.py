"""Multi30k, short descriptions of pictures, from German to English (or back): the ladder from a plain LSTM to the Transformer.

  python -m decoder_lab.main --config=experiments/translation/multi30k.py:model=transformer --workdir=runs/multi30k/transformer
  python -m decoder_lab.main --mode=evaluate --workdir=runs/multi30k/transformer
  python -m decoder_lab.main --mode=attention --workdir=runs/multi30k/transformer --prompt="Ein Hund rennt durch den Schnee."

Data: `data=FOLDER` (default data/multi30k) with raw/{train,val,test_2016_flickr}.{de,en}.gz and tok/....lc.norm.tok.{de,en}.gz.
`text=raw` reads text as it is written, in joint sub-words, and its BLEU is sacrebleu's. `text=tok` reads the lower-cased, tokenised files
by words that occur twice or more, 1,000 steps, as the tutorial does (which made about twice as many): the ladder. Its tokenised_bleu
compares with the tutorial's only; its bleu is sacrebleu's of the tokenised text. All measured with seed 0 on test 2016; sacrebleu's
signature is nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0.

| model | after | published (de-en, on a GPU) | hardware | time | measured (1) |
|---|---|---|---|---|---|
| lstm, 13,911,327 parameters | Sutskever et al. 2014 | 13.8 | 1 CPU core, shared | 40 min | 9.1, 8.5; 9.1, 8.2 |
| gru, 14,258,719 | Cho et al. 2014: the source's summary in every step | 20.6 | 1 CPU core, shared | 30 min | 22.3, 21.8; 22.2, 20.9 |
| bahdanau, 20,569,631 | Bahdanau et al. 2014: additive attention | 28.3 | 2 CPU cores | 20 min | 35.2, 34.2; 34.8, 32.9 |
| transformer, 9,050,655 | Vaswani et al. 2017: 3 + 3 layers, 256 wide | 36.5 | 1 CPU core, shared | 25 min | 35.7, 34.3; 35.4, 33.6 |
| transformer, `text=raw`, 1,800 steps | | | 2 CPU cores, shared | 64 min | 37.8, 35.9 (sacrebleu, cased) |
| tiny, `text=tok,direction=en-de` | Wu et al. 2021: 4 + 4 layers, 8,000 steps | 41.0 (beam 5) | one GPU | minutes | not measured |

1: `text=tok` where nothing else is said; tokenised BLEU with beam 5 and greedy; then sacrebleu.
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

# model -> preset of models/encoder_decoder.py
MODELS = {
    "transformer": "tutorial_transformer",
    "bahdanau": "tutorial_bahdanau",
    "gru": "tutorial_gru",
    "lstm": "tutorial_lstm",
    "tiny": "multi30k_tiny",
}


def get_config(arg=""):
    arg = parse_argument(arg, data="data/multi30k", model=tuple(MODELS), direction=("de-en", "en-de"), text=("raw", "tok"), beam=5)
    source, target = arg.direction.split("-")
    kind = "transformer" if arg.model in ("transformer", "tiny") else "recurrent"
    config = ConfigDict()
    pattern = f"{arg.data}/raw/%s.{{}}.gz" if arg.text == "raw" else f"{arg.data}/tok/%s.lc.norm.tok.{{}}.gz"
    files = dict(train=pattern % "train", validation=pattern % "val", test=pattern % "test_2016_flickr")
    config.data = dict(
        source=dict(name="parallel", kw=dict(source=source, target=target, **files)),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=8000)),
        packing=dict(name="buckets", kw=dict(by="examples")),
    )
    if arg.model == "tiny":
        config.data.tokenizer.kw.vocab_size = 9700
        config.data.packing.kw.by = "tokens"
    elif arg.text == "tok":
        words = dict(name="word", kw=dict(min_count=2))
        config.data["tokenizer"], config.data["source_tokenizer"] = words, dict(words)
    config.task = dict(name="sequence_to_sequence", kw=dict(label_smoothing=0.1))
    config.model = dict(name="encoder_decoder", kw=dict(variant=MODELS[arg.model]))
    config.total_steps = 1800 if arg.text == "raw" else 1000
    config.batch_size = 128
    config.sequence_length = 96
    config.lr = 1e-3 if kind == "transformer" else 2e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw=dict(b2=0.98))
    warmup = "400 steps" if kind == "transformer" else "0"
    if kind == "transformer" and arg.text == "raw":
        config.schedule = dict(name="inverse_sqrt", kw=dict(warmup=warmup))
    else:
        config.schedule = dict(name="cosine", kw=dict(warmup=warmup, floor=0.0))
    if arg.model == "tiny":
        config.total_steps, config.batch_size, config.lr = 8000, 88, 5e-3  # 88 x 96: two GPUs of 4,096 tokens there
        config.schedule = dict(name="inverse_sqrt", kw=dict(warmup="2000 steps"))
    scores = dict(metrics=("bleu", "chrf")) if arg.text == "raw" else dict(metrics=("tokenised_bleu", "bleu", "chrf"))
    key = scores["metrics"][0]
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", batch_size=128)),
        text=dict(name="generation", every="20%", kw=dict(split="validation", limit=256, num_tokens=96, **scores)),
        greedy=dict(name="generation", every="0", kw=dict(split="test", num_tokens=96, name="test-greedy", **scores)),
        beam=dict(
            name="generation",
            every="0",
            kw=dict(
                split="test", num_tokens=96, name="test-beam", beam_size=arg.beam, length_penalty=0.6 if arg.beam > 1 else 0.0, **scores
            ),
        ),
    )
    config.checkpoint = dict(every="20%", metric=f"text/{key}", mode="max")
    return config
