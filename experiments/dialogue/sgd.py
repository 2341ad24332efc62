"""Schema-guided dialogues: the assistant's reply from the five turns before it.

  python -m decoder_lab.main --config=experiments/dialogue/sgd.py --workdir=runs/sgd
  python -m decoder_lab.main --mode=generate --workdir=runs/sgd --prompt="USER: I want to eat Chinese food in San Jose."

Data: `data=FOLDER` (default data/sgd_dialogue) with train.jsonl.gz and dev.jsonl.gz, 3,830 and 512 dialogues.

| hardware | time | expected | measured |
|---|---|---|---|
| 1 CPU core, loaded | 68 min (about 35 alone) | nothing published for this part of the set | seed 0: below |

On 1,000 turns of dev: 2.91 nats a token, perplexity 18.3; greedy replies to the first 128 of dev: BLEU 5.0, chrF 20.5. The prompt above is
answered by "What city should I search in?" (the kind of reply is right, what was said is forgotten).
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

SIZES = dict(num_layers=3, num_heads=4, width=256, mlp_dim=1024, mlp="relu", position="sinusoidal", scale_embeddings=True, dropout=0.1)


def get_config(arg=""):
    arg = parse_argument(arg, data="data/sgd_dialogue")
    config = ConfigDict()
    config.data = dict(
        source=dict(
            name="dialogue",
            kw=dict(train=f"{arg.data}/train.jsonl.gz", validation=f"{arg.data}/dev.jsonl.gz", reply_by="SYSTEM"),
        ),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=4000)),
        packing=dict(name="buckets", kw={}),
    )
    config.task = dict(name="sequence_to_sequence", kw=dict(label_smoothing=0.1, max_target_length=64))
    encoder, decoder = (dict(name="transformer", kw=dict(SIZES)) for _ in range(2))
    config.model = dict(name="encoder_decoder", kw=dict(encoder=encoder, decoder=decoder, share_embeddings=True))
    config.total_steps = 1200
    config.batch_size = 32
    config.sequence_length = 160
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%"))
    scores = dict(metrics=("bleu", "chrf"), num_tokens=64)
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", limit=1000)),
        text=dict(name="generation", every="25%", kw=dict(split="validation", limit=128, **scores)),
        beam=dict(name="generation", every="0", kw=dict(split="validation", name="beam", beam_size=4, length_penalty=0.6, **scores)),
    )
    config.checkpoint = dict(every="25%")
    return config
