"""What transformers makes of the models of `tiny.py`: run by a Python that has torch, never imported by the tests.

    python tests/interop/reference.py fixtures            # writes fixtures/: what the tests compare with where there is no torch
    python tests/interop/reference.py check FOLDER...     # loads each folder that was exported, writes reference.npz into it
    python tests/interop/reference.py sentences MODEL     # writes fixtures/minilm.npz: vectors of sentences by all-MiniLM-L6-v2

A folder holds an exported model and `inputs.npz`; with "prompt" in it, a greedy continuation is written too.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def load(folder: pathlib.Path) -> torch.nn.Module:
    """Returns the model of a folder; whatever is missing or left over is an error."""
    config = json.loads((folder / "config.json").read_text())
    made, info = getattr(transformers, config["architectures"][0]).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    ignored = ("embed_positions", "pooler")
    wrong = [k for k in {*info["missing_keys"], *info["unexpected_keys"]} if not any(part in k for part in ignored)]
    assert not wrong and not info["mismatched_keys"], (folder, info)
    return made.eval()


@torch.no_grad()
def outputs(made: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the logits of a batch, or of a bare encoder unit vectors, the mean over real positions."""
    given = {name: torch.tensor(array).long() for name, array in inputs.items()}
    mask = given["segments"]
    if "source" in given:
        return made(
            input_ids=given["source"],
            attention_mask=given["source_segments"],
            decoder_input_ids=given["tokens"],
            decoder_attention_mask=mask,
        ).logits.numpy()
    more = {"token_type_ids": given["types"]} if "types" in given else {}
    found = made(input_ids=given["tokens"], attention_mask=mask, **more)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], -1).numpy()
    if "logits" in found:
        return found.logits.numpy()
    mean = (found.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    return torch.nn.functional.normalize(mean, dim=-1).numpy()


@torch.no_grad()
def continuation(made: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the tokens that are written greedily after "prompt", of the first row; from the first real source where one is read."""
    prompt, number = torch.tensor(inputs["prompt"]).long()[None], 8
    settings = dict(max_new_tokens=number, min_new_tokens=number, do_sample=False, num_beams=1)
    if "source" in inputs:
        source = torch.tensor(inputs["source"][:1][:, inputs["source_segments"][0] == 1]).long()
        # no cache: that of T5 has as many layers as the encoder, not the decoder (transformers 5.23)
        settings |= dict(forced_bos_token_id=None, forced_eos_token_id=None, use_cache=False)
        return made.generate(source, decoder_input_ids=prompt, **settings)[0, prompt.shape[1] :].numpy()
    return made.generate(prompt, **settings)[0, prompt.shape[1] :].numpy()


def fixtures() -> None:
    """Writes the shapes of all tensors and the outputs of all cases."""
    results, all_shapes = {}, {}
    for name in tiny.CASES:
        config = tiny.config(name)
        settings = {key: value for key, value in config.items() if key != "model_type"}
        made = getattr(transformers, config["architectures"][0])(transformers.AutoConfig.for_model(config["model_type"], **settings))
        shapes, seen = {}, set()
        for tensor, value in made.state_dict().items():
            computed = "embed_positions" in tensor and name == "marian" or (name == "bart" and tensor == "final_logits_bias")
            left_out = "pooler" in tensor and name in ("bert_vectors",)
            is_tied = value.data_ptr() in seen and not (tensor == "lm_head.weight" and not config.get("tie_word_embeddings", True))
            seen.add(value.data_ptr())
            if not (is_tied or computed or left_out):
                shapes[tensor] = list(value.shape)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            if name == "mixtral":  # in memory its experts are one array
                made.save_pretrained(folder)
                shapes = {tensor: list(value.shape) for tensor, value in load_file(folder / "model.safetensors").items()}
            save_file({k: torch.tensor(v) for k, v in tiny.weights(name, shapes).items()}, folder / "model.safetensors", {"format": "pt"})
            (folder / "config.json").write_text(json.dumps(config))
            results[name] = outputs(load(folder), tiny.inputs(name)).astype(np.float32)
        all_shapes[name] = shapes
    lines = [f'"{name}": {json.dumps(shapes)}' for name, shapes in all_shapes.items()]
    (FIXTURES / "shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez(FIXTURES / "outputs.npz", **results)


def check(folders: list[str]) -> None:
    """Writes reference.npz into each folder: "outputs" and, for a prompt, "tokens"; and saved/, the model as transformers saves it."""
    for folder in map(pathlib.Path, folders):
        made, inputs = load(folder), dict(np.load(folder / "inputs.npz"))
        more = {"tokens": continuation(made, inputs)} if "prompt" in inputs else {}
        np.savez(folder / "reference.npz", outputs=outputs(made, {k: v for k, v in inputs.items() if k != "prompt"}), **more)
        made.save_pretrained(folder / "saved")


@torch.no_grad()
def sentences(folders: list[str]) -> None:
    """Writes the ids and the vectors of sentences: the mean over all positions, of length one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[0])
    made = transformers.BertModel.from_pretrained(folders[0], attn_implementation="eager").eval()
    given = tokenizer(tiny.SENTENCES, padding=True, return_tensors="pt")
    found, mask = made(**given).last_hidden_state, given["attention_mask"]
    mean = (found * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    vectors = torch.nn.functional.normalize(mean, dim=-1).numpy()
    np.savez(FIXTURES / "minilm.npz", ids=(given["input_ids"] * mask).numpy(), segments=mask.numpy(), vectors=vectors)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    {"fixtures": lambda _: fixtures(), "check": check, "sentences": sentences}[sys.argv[1]](sys.argv[2:])
