"""What a function does, in a sentence: the first paragraph of the docstring from the body of each function of Python's own library.

  python -m decoder_lab.main --config=experiments/summarisation/stdlib_docstring.py --workdir=runs/stdlib_docstring
  python -m decoder_lab.main --mode=generate --workdir=runs/stdlib_docstring --prompt="def double(x):\n    return 2 * x"

Nothing is downloaded: the functions are those of the running interpreter's library, split by file. Functions of more than 256 tokens are
cut at their end, and how many is said.

| hardware | time | expected | measured |
|---|---|---|---|
| 1 CPU core, loaded | 47 min | nothing published | seed 0: 5.20 nats a token; greedy on 128 held-out: ROUGE-1/2/L 15.6 / 2.7 / 14.8 |
"""

from ml_collections import ConfigDict

SIZES = dict(num_layers=3, num_heads=4, width=256, mlp_dim=1024, mlp="relu", position="sinusoidal", scale_embeddings=True, dropout=0.1)


def get_config():
    config = ConfigDict()
    config.data = dict(
        source=dict(name="python_docstrings", kw={}),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=4000)),
        packing=dict(name="buckets", kw={}),
    )
    config.task = dict(name="sequence_to_sequence", kw=dict(label_smoothing=0.1, max_target_length=64))
    encoder, decoder = (dict(name="transformer", kw=dict(SIZES)) for _ in range(2))
    config.model = dict(name="encoder_decoder", kw=dict(encoder=encoder, decoder=decoder, share_embeddings=True))
    config.total_steps = 1200
    config.batch_size = 16
    config.sequence_length = 256
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%"))
    scores = dict(metrics=("bleu", "chrf", "rouge"), num_tokens=64, length_factor=0.5)
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", limit=1000)),
        text=dict(name="generation", every="25%", kw=dict(split="validation", limit=128, **scores)),
        beam=dict(name="generation", every="0", kw=dict(split="validation", name="beam", beam_size=4, length_penalty=0.6, **scores)),
    )
    config.checkpoint = dict(every="25%")
    return config
