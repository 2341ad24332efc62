"""Tiny models of every family: their config.json, their weights by name, what they read. Used with and without torch."""

import zlib

import numpy as np

V, LONGEST = 40, 24
BATCH, LENGTH, SOURCE = 2, 11, 9
NUM_REAL = (LENGTH, LENGTH - 4)  # of the rows; the rest is padding
NUM_REAL_SOURCE = (SOURCE - 3, SOURCE)

LLAMA = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=V,
    max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
GEMMA = LLAMA | dict(head_dim=6, num_hidden_layers=4, sliding_window=4, query_pre_attn_scalar=5, bos_token_id=2, eos_token_id=1)
BERT = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=V, max_position_embeddings=LONGEST,
    pad_token_id=0,
)  # fmt: skip
THREE = dict(id2label={"0": "bad", "1": "good", "2": "middling"}, label2id={"bad": 0, "good": 1, "middling": 2})
DISTILBERT = dict(dim=16, hidden_dim=24, n_layers=2, n_heads=2, vocab_size=V, max_position_embeddings=LONGEST, pad_token_id=0)
T5 = dict(
    d_model=16, d_kv=6, d_ff=24, num_layers=2, num_decoder_layers=3, num_heads=2, vocab_size=V, decoder_start_token_id=0,
    pad_token_id=0, eos_token_id=1,
)  # fmt: skip
BART = dict(
    d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=24,
    decoder_ffn_dim=20, vocab_size=V, max_position_embeddings=LONGEST,
)  # fmt: skip

# name -> (their class, config.json)
CASES = {
    "gpt2": ("GPT2LMHeadModel", dict(
        model_type="gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=LONGEST, vocab_size=V, bos_token_id=1, eos_token_id=2,
    )),
    "llama": ("LlamaForCausalLM", LLAMA | dict(
        model_type="llama", rope_theta=500.0,
        rope_scaling=dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    )),
    "llama_biases": ("LlamaForCausalLM", LLAMA | dict(
        model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=6,
        rope_scaling=dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=8),
    )),
    "mistral": ("MistralForCausalLM", LLAMA | dict(model_type="mistral", sliding_window=4)),
    "mixtral": ("MixtralForCausalLM", LLAMA | dict(
        model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.02,
    )),
    "qwen2": ("Qwen2ForCausalLM", LLAMA | dict(
        model_type="qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=3, max_window_layers=1,
        rope_scaling=dict(rope_type="linear", factor=2.0),
    )),
    "qwen3": ("Qwen3ForCausalLM", LLAMA | dict(model_type="qwen3", head_dim=6, tie_word_embeddings=True)),
    "gemma2": ("Gemma2ForCausalLM", GEMMA | dict(model_type="gemma2", attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3ForCausalLM", GEMMA | dict(
        model_type="gemma3_text", rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000.0),
            sliding_attention=dict(rope_type="default", rope_theta=100.0),
        ),
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    )),
    "bert": ("BertForMaskedLM", BERT | dict(model_type="bert")),
    "bert_classifier": ("BertForSequenceClassification", BERT | THREE | dict(model_type="bert")),
    "bert_tagger": ("BertForTokenClassification", BERT | THREE | dict(model_type="bert")),
    "bert_answers": ("BertForQuestionAnswering", BERT | dict(model_type="bert")),
    "bert_vectors": ("BertModel", BERT | dict(model_type="bert")),
    "roberta": ("RobertaForMaskedLM", BERT | dict(
        model_type="roberta", type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )),
    "roberta_classifier": ("RobertaForSequenceClassification", BERT | THREE | dict(
        model_type="roberta", type_vocab_size=1, pad_token_id=1,
    )),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT | dict(model_type="distilbert")),
    "distilbert_classifier": ("DistilBertForSequenceClassification", DISTILBERT | THREE | dict(model_type="distilbert")),
    "t5": ("T5ForConditionalGeneration", T5 | dict(model_type="t5")),
    "t5_v1_1": ("T5ForConditionalGeneration", T5 | dict(model_type="t5", feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "bart": ("BartForConditionalGeneration", BART | dict(
        model_type="bart", forced_bos_token_id=0, decoder_start_token_id=2, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )),
    "marian": ("MarianMTModel", BART | dict(
        model_type="marian", scale_embedding=True, activation_function="swish", pad_token_id=V - 1, eos_token_id=0,
        decoder_start_token_id=V - 1, decoder_vocab_size=V,
    )),
}  # fmt: skip
READS_A_SOURCE = ("t5", "t5_v1_1", "bart", "marian")
TYPED = ("bert", "bert_classifier", "bert_answers")  # the batch has token types
WRITES = ("gpt2", "llama", "llama_biases", "mistral", "mixtral", "qwen2", "qwen3", "gemma2", "gemma3", *READS_A_SOURCE)


def config(name: str) -> dict:
    """Returns the config.json of a case."""
    their_class, settings = CASES[name]
    return {"architectures": [their_class], **settings}


def weight(name: str, shape: tuple[int, ...], plus_one: bool = False) -> np.ndarray:
    """Returns the values of a tensor: they follow from its name. Norms are near one, or near zero where one is added to them."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    is_norm = len(shape) == 1 and ("norm" in name.lower() or ".ln_" in name) and name.endswith("weight")
    return (0.0 if plus_one else 1.0) + 0.2 * x if is_norm else 0.3 * x


def weights(name: str, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Returns the tensors of a case."""
    return {tensor: weight(tensor, tuple(shape), name.startswith("gemma")) for tensor, shape in shapes.items()}


def inputs(name: str) -> dict[str, np.ndarray]:
    """Returns "tokens" and "segments", [B, T], and where a source is read "source" and "source_segments", int32; segment 0 is padding.

    Of some also "types", 1 in the second part.
    """
    random = np.random.RandomState(7)

    def page(length: int, num_real: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        tokens = random.randint(3, V - 1, (BATCH, length)).astype(np.int32)
        segments = (np.arange(length)[None] < np.array(num_real)[:, None]).astype(np.int32)
        return np.where(segments == 1, tokens, CASES[name][1].get("pad_token_id", 0)).astype(np.int32), segments

    tokens, segments = page(LENGTH, NUM_REAL)
    found = {"tokens": tokens, "segments": segments}
    if name in READS_A_SOURCE:
        found["source"], found["source_segments"] = page(SOURCE, NUM_REAL_SOURCE)
    if name in TYPED:
        found["types"] = (np.arange(LENGTH)[None] >= 5).astype(np.int32) * segments
    return found


SENTENCES = [
    "A decoder is a pure function.",
    "The weather is lovely today, isn't it?",
    "It's so sunny outside!",
    "Ünïcödé 漢字 and [SEP] in the text",
]
