"""The other side of the measurement: Hugging Face's GPT-2 on torch, same shapes. Needs the extra `benchmark`."""

import time
from collections.abc import Callable

import torch
import transformers

from decoder_lab.benchmark import protocol
from decoder_lab.benchmark.shapes import SHAPES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _model(size: str, dtype: str) -> transformers.GPT2LMHeadModel:
    shape = SHAPES[size]
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.max_length,
        n_embd=shape.width,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).to(DEVICE, getattr(torch, dtype))
    if shape.large:
        model.gradient_checkpointing_enable()
    return model


def training(size: str, dtype: str) -> Callable[[int], float]:
    """Returns a function that takes n AdamW steps (clipped at norm 1, as ours) on random tokens and returns their seconds."""
    return _trained(size, _model(size, dtype))


def adapting(size: str, dtype: str, method: str) -> Callable[[int], float]:
    """The same where `method` is "full"; with "lora" only peft's rank 8 beside queries, keys and values, one matrix here, is trained."""
    model = _model(size, dtype)
    if method == "lora":
        import peft

        config = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True)
        model = peft.get_peft_model(model, config)
    return _trained(size, model)


def _trained(size: str, model: torch.nn.Module) -> Callable[[int], float]:
    shape = SHAPES[size]
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.1)
    tokens = torch.randint(0, shape.vocab_size, (shape.batch_size, shape.length), device=DEVICE)

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        return time.perf_counter() - began

    return run


def generation(size: str, dtype: str, batch_size: int, beam: int, new_tokens: int = 128) -> Callable[[int], float]:
    """Returns a function that writes `new_tokens` tokens after prompts of 32, n times over, and returns the seconds."""
    shape = SHAPES[size]
    model = _model(size, dtype).eval()
    tokens = torch.randint(0, shape.vocab_size, (batch_size, 32), device=DEVICE)
    wanted = dict(max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, num_beams=beam, use_cache=True, pad_token_id=0)

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            with torch.inference_mode():
                found = model.generate(tokens, attention_mask=torch.ones_like(tokens), **wanted)
            assert found.shape == (batch_size, 32 + new_tokens)
        return time.perf_counter() - began

    return run


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    name = f"torch {torch.__version__} and transformers {transformers.__version__} on {DEVICE}, {torch.get_num_threads()} threads"
    on_device = torch.cuda.max_memory_allocated if DEVICE == "cuda" else lambda: 0
    protocol.serve({"training": training, "adapting": adapting, "generation": generation}, lambda: {"name": name}, on_device)
