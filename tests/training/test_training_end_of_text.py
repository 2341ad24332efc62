"""From text to text: a model that is trained on whole documents learns where they end, and stops there."""

import io

import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.serving import generate
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop, resume

DOCUMENTS = ("ab", "cdefgh", "ijklmnopqrst", "uvwxyz0123456789.")  # of several lengths: the end is in the text, not in the count


@pytest.mark.parametrize("packing", ["documents", "split"])
def test_a_trained_model_writes_the_end_of_text_and_stops(tmp_path, packing):
    """KNOWN_BUGS 9: an end of text that is masked as if it were padding is never learned, and the model writes on until it is cut off."""
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("\n\n".join(DOCUMENTS * 40))
    files = dict(train=str(tmp_path / "train.txt"), validation=str(tmp_path / "val.txt"), document_separator="\n\n")
    delta = dict(
        total_steps=60,
        batch_size=16,
        sequence_length=32,
        lr=1e-2,
        data=dict(source=dict(name="text", kw=files), tokenizer=dict(name="byte", kw={}), packing=dict(name=packing, kw={})),
        model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=32)),
        evaluators={},
        checkpoint=dict(every="100%", metric="", keep_best=0),
        log=dict(writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    experiment = experiments.Experiment(config_lib.resolve(delta), tmp_path / "run", report=lambda line: None)
    assert loop.train(experiment, tmp_path / "run") == 0

    params, _ = resume.inference_params(experiment, "latest")
    options = generate.Options(prompt=tuple(text[0] for text in DOCUMENTS), num_tokens=30, temperature=0.0)
    out = io.StringIO()
    generate.run(experiment.model, params, experiment.tokenizer, options, out)
    assert [line for line in out.getvalue().split("\n") if line and not line.startswith("---")] == list(DOCUMENTS)
