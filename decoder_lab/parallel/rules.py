"""Which logical axes the parameters of every model have, by regex on their paths, and on which axis of the mesh each of those lies.

A rule is (pattern, names): the first pattern that is found in a path counts, and its names, one for each dimension, say what they are.
"*" stands for any number of dimensions that lie whole everywhere. A parameter with one dimension more than its rule has names is one of
scanned layers, whose first axis is "layers". A config's `mesh.rules` come before these, its `mesh.logical` over LOGICAL.
"""

RULES: tuple[tuple[str, str], ...] = (
    # what an adapter adds is small, and so are the scales of quantised kernels
    (r"(^|[/_])(lora|adapter|ia3|prompt|prefix)(_|$)|kernel_scale$", "*"),
    (r"norm(_\d+)?/(scale|bias)$", "norm"),
    # tables: of tokens (which unembed too where they are tied), of positions and types, of hashed n-grams
    (r"token_embedding/embedding$", "vocab embed"),
    (r"unembedding/kernel$", "embed vocab"),
    (r"(unembedding/|logits_)bias$", "vocab"),
    (r"embedding$", "rows embed"),
    (r"position_bias$", "rows heads"),
    # recurrent networks: everything that stands inside the loop over time
    (r"(forward|backward|layers)_\d+/(recurrent_)?kernel$", "embed gates"),
    (r"(forward|backward|layers)_\d+/(candidate_)?bias$", "gates"),
    (r"recurrent/(attention|attentional|start)/?.*kernel$", "embed gates"),
    (r"recurrent/(attention|start)/.*(bias|vector)$", "gates"),
    # Transformers
    (r"attention/query/kernel$", "embed heads"),
    (r"attention/(key|value)/kernel$", "embed kv_heads"),
    (r"attention/query/bias$", "heads"),
    (r"attention/(key|value)/bias$", "kv_heads"),
    (r"attention/out/kernel$", "heads embed"),
    (r"attention/score_kernel$", "heads features features"),
    (r"attention/(score|centre)_vector$", "heads features"),
    (r"attention/centre/kernel$", "embed heads"),
    (r"mlp/(up|gate)/kernel$", "embed mlp"),
    (r"mlp/(up|gate)/bias$", "mlp"),
    (r"mlp/down/kernel$", "mlp embed"),
    # mixtures of experts
    (r"mlp/(up|gate)_kernel$", "experts embed mlp"),
    (r"mlp/(up|gate)_bias$", "experts mlp"),
    (r"mlp/down_kernel$", "experts mlp embed"),
    (r"mlp/down_bias$", "experts features"),
    # convolutions, heads, and what else multiplies
    (r"kernel$", "embed features"),
    (r"bias$", "features"),
    (r"similarity$|crf_between$|^distillation_projection$", "features features"),
    (r"crf_(start|end)$", "features"),
    (r"log_scale$", ""),
)

# "" is whole on every device
LOGICAL: dict[str, str] = {
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "experts": "expert",
    "gates": "",
    "features": "",
    "rows": "",
    "norm": "",
    "layers": "",
}
QUANTISED = r"_(int8|nf4)$"  # a quantised kernel has the axes of the kernel
IN_TIME = "gates"  # a parameter of which this is an axis is read once a time step, one after the other
MAY_STAY_WHOLE = (
    "vocab",
)  # where their size cannot be divided: vocabularies are of any size; what is computed with them is split unevenly
ANYTHING = "*"
LAYERS = "layers"
