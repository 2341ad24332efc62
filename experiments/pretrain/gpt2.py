"""The GPT-2 sizes, on any text.

  python -m decoder_lab.main --config=experiments/pretrain/gpt2.py:size=gpt2,files=data/corpus/*.txt --workdir=runs/gpt2

`files` is a glob of text files (default: the interpreter's own library, so that the command runs anywhere); `tokenizer` is a
`tokenizer.json` such as GPT-2's own (default: SentencePiece with a vocabulary of 32,000, trained on the text).

| size | parameters (vocabulary 50257, length 1024) | hardware | expected (nanoGPT, OpenWebText, nats a token) | measured here |
|---|---|---|---|---|
| gpt2 | 124,439,808 | 8 A100, 4 days | 2.85 | not measured |
| gpt2-medium | 354,823,168 | | | not measured |
| gpt2-large | 774,030,080 | | | not measured |
| gpt2-xl | 1,557,611,200 | | | not measured |
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument


def get_config(arg=""):
    arg = parse_argument(arg, size=("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), files="", tokenizer="")
    config = ConfigDict()
    config.total_steps = 600_000
    config.batch_size = 480
    config.accumulate = 40
    config.sequence_length = 1024
    config.dtype = "bfloat16"
    config.lr = 6e-4
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.95))
    config.schedule = dict(name="cosine", kw=dict(warmup="2000 steps", floor=0.1))
    config.model = dict(name="decoder_only", kw=dict(variant=arg.size))
    config.task = dict(name="language_modeling", kw=dict(loss_chunk=128))
    source = dict(name="text", kw=dict(path=arg.files)) if arg.files else dict(name="python_stdlib", kw={})
    hf = dict(name="huggingface", kw=dict(path=arg.tokenizer))
    config.data = dict(source=source, tokenizer=hf if arg.tokenizer else dict(name="sentencepiece", kw=dict(vocab_size=32000)))
    config.evaluators = dict(
        val=dict(name="mean", every="1000 steps", kw=dict(split="validation", limit=2048)),
        samples=dict(name="samples", every="5000 steps", kw=dict(prompts=("The ",), num_tokens=200)),
    )
    config.checkpoint = dict(every="1000 steps")
    return config
