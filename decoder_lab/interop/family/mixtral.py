"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in the place of every MLP."""

import dataclasses

from decoder_lab.interop.family_base import Unsupported
from decoder_lab.interop.llama_like import LAYER, OURS, LlamaLike
from decoder_lab.interop.table import LINEAR, TRANSPOSED

EXPERT = LAYER + "block_sparse_moe.experts.{e}."  # files hold each expert's matrices by themselves, ours are [E, in, out]
MIXTURE = {
    LAYER + "block_sparse_moe.gate": (OURS + "mlp/router", LINEAR),
    EXPERT + "w1": (OURS + "mlp", {"weight": ("gate_kernel", TRANSPOSED)}),
    EXPERT + "w3": (OURS + "mlp", {"weight": ("up_kernel", TRANSPOSED)}),
    EXPERT + "w2": (OURS + "mlp", {"weight": ("down_kernel", TRANSPOSED)}),
}


class Family(LlamaLike):
    """MixtralForCausalLM."""

    model_type = "mixtral"
    architectures = {"MixtralForCausalLM": "decoder_only"}
    fields = LlamaLike.fields | {
        "num_key_value_heads": ("num_kv_heads", 8),
        "intermediate_size": ("mlp_dim", 14336),
        "rms_norm_eps": ("norm_epsilon", 1e-5),
        "sliding_window": ("window", None),
        "num_local_experts": ("num_experts", 8),
        "num_experts_per_tok": ("experts_per_token", 2),
    }
    vocab_size = 32000
    num_positions = ("max_position_embeddings", 4096 * 32)
    tokens = dict(bos_token_id=1, eos_token_id=2)
    theta = 1_000_000.0

    def variant(self, config):
        """No expert is ever full. Their balance of a token is the sum over its experts, ours the mean; they have no loss of the logits."""
        num_experts, top_k = config.get("num_local_experts", 8), config.get("num_experts_per_tok", 2)
        if num_experts < 1:
            raise Unsupported(f"config.json of mixtral: num_local_experts: got {num_experts}, expected at least 1.")
        return dict(expert_capacity=None, expert_balance=top_k * config.get("router_aux_loss_coef", 0.001), expert_z=0.0)

    def their_variant(self, kw):
        """The reverse of `variant`."""
        return dict(router_aux_loss_coef=kw["expert_balance"] / kw["experts_per_token"])

    def table(self, plugin):
        """The experts in the place of the MLP's three matrices."""
        found = super().table(plugin)
        return dataclasses.replace(found, modules={name: of for name, of in found.modules.items() if ".mlp." not in name} | MIXTURE)
