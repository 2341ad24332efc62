"""Tatoeba: short sentences from English to Chinese, written character by character.

  python -m decoder_lab.main --config=experiments/translation/tatoeba.py --workdir=runs/tatoeba
  python -m decoder_lab.main --mode=generate --workdir=runs/tatoeba --prompt="I am very tired."

Data: `data=FOLDER` (default data/tatoeba_eng_cmn) with train.tsv.gz and dev.tsv, English TAB Chinese, 18,361 and 1,058 pairs. No sentence
stands in both, so this is harder than a random split; there is no standard one. BLEU is sacrebleu's with tokenize=zh.
What it writes: "He's a tennis player." 他是一個網球選手。 "I know nothing about her." 我不知道她的事。 Rare words fail:
"Printing ink is in short supply." 总统的人在说话是我提供提供的。

| model | hardware | time | expected | measured |
|---|---|---|---|---|
| transformer (3 + 3 layers, 256 wide) | 1 CPU core | 28 min | - | beam 5: BLEU 22.3, chrF 20.2; greedy, first 256: 21.0, 18.9 (seed 0) |
| bahdanau (GRU of 256, additive attention) | 2 CPU cores | about half an hour | nothing published | not yet measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

RECURRENT = dict(cell="gru", width=256, embedding_dim=128, dropout=0.3)
TRANSFORMER = dict(num_layers=3, num_heads=4, width=256, mlp_dim=512, mlp="relu", position="sinusoidal", scale_embeddings=True, dropout=0.2)


def get_config(arg=""):
    arg = parse_argument(arg, data="data/tatoeba_eng_cmn", model=("transformer", "bahdanau"))
    if arg.model == "transformer":
        encoder, decoder = (dict(name="transformer", kw=dict(TRANSFORMER)) for _ in range(2))
    else:
        encoder = dict(name="recurrent", kw=RECURRENT | dict(bidirectional=True))
        decoder = dict(name="recurrent", kw=RECURRENT | dict(attention="additive", context_input=True, output="deep"))
    config = ConfigDict()
    columns = dict(header=False, fields=dict(source=0, target=1))
    config.data = dict(
        source=dict(name="tsv", kw=dict(train=f"{arg.data}/train.tsv.gz", validation=f"{arg.data}/dev.tsv", **columns)),
        source_tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=4000)),
        tokenizer=dict(name="character", kw=dict(eos=True, unknown="replace")),
        packing=dict(name="buckets", kw=dict(by="examples")),
    )
    config.task = dict(name="sequence_to_sequence", kw=dict(label_smoothing=0.1))
    config.model = dict(name="encoder_decoder", kw=dict(encoder=encoder, decoder=decoder))
    config.total_steps = 2000
    config.batch_size = 96
    config.sequence_length = 64
    config.lr = 1e-3
    config.weight_decay = 0.0
    config.optimizer = dict(name="adam", kw=dict(b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%"))
    scores = dict(metrics=("bleu", "chrf"), tokenize="zh", num_tokens=64)
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", batch_size=96)),
        text=dict(name="generation", every="20%", kw=dict(split="validation", limit=256, **scores)),
        beam=dict(name="generation", every="0", kw=dict(split="validation", name="beam", beam_size=5, length_penalty=0.6, **scores)),
    )
    config.checkpoint = dict(every="20%", metric="text/chrf", mode="max")
    return config
