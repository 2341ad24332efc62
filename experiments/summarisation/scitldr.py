"""SciTLDR: one sentence from the abstract of a paper.

  python -m decoder_lab.main --config=experiments/summarisation/scitldr.py --workdir=runs/scitldr
  python -m decoder_lab.main --mode=generate --workdir=runs/scitldr --prompt="In this paper, we ..."

Data: `data=FOLDER` (default data/scitldr_a) with train.jsonl.gz and dev.jsonl.gz, 1,992 and 619 papers, some with several references. A
model from scratch has far too little to learn from here (of almost any abstract it writes "We propose a novel method to learn to learn
..."); it shows the pipeline. ROUGE is the best over references, with stemming.

| hardware | time | expected | measured |
|---|---|---|---|
| 1 CPU core, shared | 18 min | ROUGE-1/2/L: first sentence 31.3 / 12.3 / 25.0; BART, pretrained, 43.3 / 20.8 / 35.0 | 18.8 / 4.4 / 17.1 |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

SIZES = dict(num_layers=2, num_heads=4, width=128, mlp_dim=512, mlp="relu", position="sinusoidal", scale_embeddings=True, dropout=0.3)


def get_config(arg=""):
    arg = parse_argument(arg, data="data/scitldr_a")
    config = ConfigDict()
    config.data = dict(
        source=dict(
            name="jsonl",
            kw=dict(
                train=f"{arg.data}/train.jsonl.gz",
                validation=f"{arg.data}/dev.jsonl.gz",
                fields=dict(source="source", target="target.0", references="target"),
            ),
        ),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=4000)),
        packing=dict(name="buckets", kw={}),
    )
    config.task = dict(name="sequence_to_sequence", kw=dict(label_smoothing=0.1, max_target_length=64))
    encoder, decoder = (dict(name="transformer", kw=dict(SIZES)) for _ in range(2))
    config.model = dict(name="encoder_decoder", kw=dict(encoder=encoder, decoder=decoder, share_embeddings=True))
    config.total_steps = 600
    config.batch_size = 16
    config.sequence_length = 384
    config.lr = 2e-3
    config.weight_decay = 0.1
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%"))
    scores = dict(metrics=("rouge",), num_tokens=64, length_factor=0.3)
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", limit=1000)),
        text=dict(name="generation", every="25%", kw=dict(split="validation", limit=128, **scores)),
        beam=dict(name="generation", every="0", kw=dict(split="validation", name="beam", beam_size=4, length_penalty=0.6, **scores)),
    )
    config.checkpoint = dict(every="25%")
    return config
