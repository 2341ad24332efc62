"""Run by test_interop_peft_live.py in a Python with torch, transformers and peft: `python peft_side.py FOLDER`.

FOLDER/jobs.json: [{"base", "adapter", "make"}]. Where "make" is a config of peft, an adapter is made by it, with random values, and saved;
else the adapter is loaded. Its model's logits of FOLDER/tokens.npy go to ADAPTER/logits.npy.
"""

import json
import pathlib
import sys

import numpy as np
import peft
import torch
import transformers

MADE = {"lora": peft.LoraConfig, "adalora": peft.AdaLoraConfig, "ia3": peft.IA3Config}


def made(model, method, kw):
    """Returns the model with a new adapter, nothing of it at its initial value."""
    torch.manual_seed(0)
    model = peft.get_peft_model(model, MADE[method](task_type="CAUSAL_LM", **kw))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.2 * torch.randn_like(weight)
    return model


def main(folder):
    tokens = torch.from_numpy(np.load(folder / "tokens.npy")).long()
    for job in json.loads((folder / "jobs.json").read_text()):
        model = transformers.AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
        if job["make"]:
            model = made(model, *job["make"])
            model.save_pretrained(job["adapter"])
        else:
            model = peft.PeftModel.from_pretrained(model, job["adapter"])
        with torch.no_grad():
            logits = model.eval()(input_ids=tokens).logits
        np.save(pathlib.Path(job["adapter"]) / "logits.npy", logits.numpy())


main(pathlib.Path(sys.argv[1]))
