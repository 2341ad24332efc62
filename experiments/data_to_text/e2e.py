"""E2E: a sentence about a restaurant from a list of its properties.

  python -m decoder_lab.main --config=experiments/data_to_text/e2e.py --workdir=runs/e2e
  python -m decoder_lab.main --mode=generate --workdir=runs/e2e --prompt="name[Aromi], eatType[coffee shop], food[Italian], area[riverside]"

Data: `data=FOLDER` (default data/e2e_nlg) with train_tokenised/{src_train,train}.txt.gz, devset.csv.gz and testset_w_refs_part1.csv.gz. In
evaluation all texts of one meaning are its references. BLEU is sacrebleu's, not that of the challenge's script.

| hardware | time | expected | measured |
|---|---|---|---|
| 1 CPU core, shared | 33 min | BLEU 65.9 of the challenge's baseline, by its own script on the whole test set | seed 0: below |

Beam 4 on the 315 meanings of testset_w_refs_part1: BLEU 60.0, chrF 63.7, ROUGE-L 64.5; greedy on the first 128 of devset: BLEU 65.8, chrF
70.9, ROUGE-L 68.2. What it writes of name[Wildwood], eatType[pub], food[Italian], area[city centre], familyFriendly[yes], near[Raja Indian
Cuisine]: "Wildwood is a pub that serves Italian food. It is located in the city centre near the Crowne Plaza Hotel." (fluent, and two
properties wrong or missing).
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument

SIZES = dict(num_layers=3, num_heads=4, width=256, mlp_dim=512, mlp="relu", position="learned", scale_embeddings=True, dropout=0.1)


def get_config(arg=""):
    arg = parse_argument(arg, data="data/e2e_nlg")
    config = ConfigDict()
    config.data = dict(
        source=dict(
            name="e2e_nlg",
            kw=dict(
                train=f"{arg.data}/train_tokenised/{{}}.txt.gz",
                validation=f"{arg.data}/devset.csv.gz",
                test=f"{arg.data}/testset_w_refs_part1.csv.gz",
            ),
        ),
        tokenizer=dict(name="sentencepiece", kw=dict(vocab_size=2000)),
        packing=dict(name="buckets", kw={}),
    )
    config.task = dict(name="sequence_to_sequence", kw=dict(label_smoothing=0.1))
    encoder, decoder = (dict(name="transformer", kw=dict(SIZES)) for _ in range(2))
    config.model = dict(name="encoder_decoder", kw=dict(encoder=encoder, decoder=decoder, share_embeddings=True))
    config.total_steps = 600
    config.batch_size = 64
    config.sequence_length = 96
    config.lr = 1e-3
    config.weight_decay = 0.01
    config.optimizer = dict(name="adamw", kw=dict(b2=0.98))
    config.schedule = dict(name="cosine", kw=dict(warmup="5%"))
    scores = dict(metrics=("bleu", "chrf", "rouge"), num_tokens=96)
    config.evaluators = dict(
        val=dict(name="mean", every="10%", kw=dict(split="validation", limit=1000)),
        text=dict(name="generation", every="25%", kw=dict(split="validation", limit=128, **scores)),
        beam=dict(name="generation", every="0", kw=dict(split="test", name="beam", beam_size=4, length_penalty=0.6, **scores)),
    )
    config.checkpoint = dict(every="25%")
    return config
