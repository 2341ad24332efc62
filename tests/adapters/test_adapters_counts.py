"""Numbers of trained parameters, exactly those of the papers' and PEFT's tables (TARGETS 2f), from shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup, tree
from decoder_lab.training.adaptation import Adaptation

SHORT = dict(max_length=64, dtype=jnp.float32)
TOKENS = {"tokens": np.zeros((1, 4), np.int32)}


class Reads:
    """A task that only knows how a model is called."""

    def __init__(self, model):
        self.source = lookup.given("model", model["name"]) if isinstance(model, dict) else ()

    def dummy(self):
        return TOKENS

    def forward(self, model, batch, deterministic):
        given = {"source_BS": batch["tokens"]} if "source_vocab_size" in self.source else {}
        return model(batch["tokens"], **given, deterministic=deterministic)


def count(adapter, model, vocab_size=1000):
    """Returns the parameters that are trained of a model of the lab, {"name", "kw"}; heads are not."""
    kw = dict(adapter["kw"], train_heads=False)
    sizes = dict(vocab_size=vocab_size, source_vocab_size=vocab_size, num_labels=2)
    made = lookup.make("model", model, **sizes, **SHORT)
    adaptation = Adaptation(lookup.make("adapter", dict(adapter, kw=kw)), made, Reads(model), jax.random.key(0))
    return tree.count(adaptation.trained_shapes)


def bert(variant):
    return dict(name="masked_lm", kw=dict(encoder=dict(name="transformer", kw=dict(variant=variant, scan_layers=True))))


def decoder(**kw):
    return dict(name="decoder_only", kw=dict(scan_layers=True, **kw))  # one layer to look at, counted as often as there are


SIX = dict(targets=("(query|key|value|out|up|down)/kernel$",))  # AdaLoRA's table 1: W_q, W_k, W_v, W_o, W_f1, W_f2
QWEN25_3B = decoder(num_layers=36, num_heads=16, num_kv_heads=2, width=2048, mlp_dim=11008, norm="rms", position="rotary", mlp="swiglu")
DEBERTA_XXL = dict(
    name="masked_lm", kw=dict(encoder=dict(name="transformer", kw=dict(num_layers=48, num_heads=24, width=1536, scan_layers=True)))
)
BLOOMZ_560M = decoder(num_layers=24, num_heads=16, width=1024, position="alibi", embedding_norm=True)
MT0_LARGE = {
    side: dict(
        name="transformer",
        kw=dict(
            num_layers=24,
            num_heads=16,
            head_dim=64,
            width=1024,
            mlp_dim=2816,
            norm="rms",
            position="t5",
            mlp="geglu",
            use_bias=False,
            scan_layers=True,
        ),
    )
    for side in ("encoder", "decoder")
}
MT0_LARGE = dict(name="encoder_decoder", kw=dict(**MT0_LARGE, share_embeddings=True))

TABLE = [
    ("lora", dict(rank=4), decoder(variant="gpt2-medium"), 393_216),
    ("lora", dict(rank=4), decoder(variant="gpt2-large"), 737_280),
    ("lora", dict(rank=8), bert("bert-base"), 294_912),  # RoBERTa-base has its shapes
    ("lora", dict(rank=8), bert("bert-large"), 786_432),
    ("lora", dict(rank=2, **SIX), bert("bert-base"), 331_776),  # DeBERTaV3-base
    ("lora", dict(rank=8, **SIX), bert("bert-base"), 1_327_104),
    ("lora", dict(rank=16, **SIX), bert("bert-base"), 2_654_208),
    ("lora", dict(rank=16), DEBERTA_XXL, 4_718_592),
    ("adalora", dict(rank=2, target_rank=1, **SIX), bert("bert-base"), 331_920),
    ("adalora", dict(rank=8, target_rank=4, **SIX), bert("bert-base"), 1_327_680),
    ("bottleneck", dict(width=8), bert("bert-base"), 313_536),
    ("bottleneck", dict(width=16), bert("bert-base"), 608_640),
    ("bottleneck", dict(width=32), bert("bert-base"), 1_198_848),
    ("bottleneck", dict(style="pfeiffer", width=16), bert("bert-base"), 304_320),
    ("bottleneck", dict(style="pfeiffer", width=32), bert("bert-base"), 599_424),
    ("bottleneck", dict(style="pfeiffer", width=64), bert("bert-base"), 1_189_632),
    ("lora", dict(rank=16), QWEN25_3B, 3_686_400),
    ("lora", dict(rank=8), MT0_LARGE, 2_359_296),
    ("ia3", {}, MT0_LARGE, 282_624),
    ("prompt", dict(num_tokens=8), BLOOMZ_560M, 8_192),
    ("prefix", dict(num_tokens=20), BLOOMZ_560M, 983_040),
    ("prefix", dict(num_tokens=30), BLOOMZ_560M, 1_474_560),
]


@pytest.mark.parametrize(("name", "kw", "model", "expected"), TABLE)
def test_trained_parameters_are_those_of_the_papers(name, kw, model, expected):
    assert count(dict(name=name, kw=kw), model) == expected


def test_gpt3s_counts():
    """175B: 96 layers, 12288 wide; rank 1, 4 and 8 of queries and values (LoRA, table 4)."""
    model = decoder(num_layers=96, num_heads=96, width=12288)
    counts = [count(dict(name="lora", kw=dict(rank=rank)), model) for rank in (1, 4, 8)]
    assert counts == [4_718_592, 18_874_368, 37_748_736]


@pytest.mark.parametrize(
    ("adapter", "head", "num_labels", "expected"),
    [
        # RoBERTa-base on GLUE with its two-label head of two layers: microsoft/LoRA's 0.8 million
        (dict(name="lora", kw=dict(rank=8)), "tanh", 2, 294_912 + 768 * 768 + 768 + 768 * 2 + 2),
        # PEFT's ViT-base with 101 classes, from its first layer's output on: the same shapes
        (dict(name="lora", kw=dict(rank=16)), "linear", 101, 667_493),
        (dict(name="adalora", kw=dict(rank=12, target_rank=8)), "linear", 101, 520_325),
    ],
)
def test_with_the_head(adapter, head, num_labels, expected):
    encoder = dict(name="transformer", kw=dict(variant="bert-base", scan_layers=True))
    model = dict(name="classifier", kw=dict(pooling="first", head=head, encoder=encoder))
    made = lookup.make("model", model, vocab_size=100, num_labels=num_labels, **SHORT)
    adaptation = Adaptation(lookup.make("adapter", adapter), made, Reads(model), jax.random.key(0))
    assert tree.count(adaptation.trained_shapes) == expected
