"""Folders of runs as the lab leaves them, made without training."""

import json
import math

HOSTILE = "</script><b>bold</b><img src=x onerror=alert(1)> & \"'\u2028 汉字 🙂"
CONFIG = dict(
    task=dict(name="language_modeling", kw={}),
    model=dict(name="decoder_only", kw=dict(width=64, variant="")),
    data=dict(source=dict(name="text", kw=dict(path="a.txt")), tokenizer=dict(name="byte", kw={})),
    optimizer=dict(name="adamw", kw={}),
    schedule=dict(name="cosine", kw={}),
    checkpoint=dict(metric="val/loss", mode="min"),
    total_steps=60,
    total_epochs=None,
    batch_size=4,
    sequence_length=8,
    lr=1e-3,
    seed=0,
)


def rows(steps=60, offset=0.0, every=1):
    """Lines of metrics.jsonl with numbers that no short decimal holds."""
    for step in range(0, steps + 1, every):
        if step:
            speed = {
                "time/steps_per_s": 2.0 + step / 7,
                "time/tokens_per_s": 64.0,
                "time/data": 0.25,
                "time/device": 0.5,
                "time/host": 0.25,
            }
            yield {"step": step, "train/loss": offset + math.exp(-step / 20) + 1 / 3, "train/lr": 1e-3 / 3, "train/grad_norm": 1.0, **speed}
        if step % 20 == 0:
            yield {"step": step, "val/loss": offset + math.exp(-step / 20) + 1 / 7, "val/accuracy": step / 90, "val/mcc": (step - 30) / 90}


def write(path, lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def make_run(folder, lines=None, config=CONFIG, samples=(), details=(), **settings):
    """Makes a run's folder; `settings` replace top-level settings of the config."""
    folder.mkdir(parents=True)
    write(folder / "metrics.jsonl", rows() if lines is None else lines)
    write(folder / "samples.jsonl", samples)
    if details:
        write(folder / "details.jsonl", details)
    if config is not None:
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
        versions = dict(versions={"jax": "0.0.1"}, python="3.11", platform="Linux")
        entry = dict(
            time="2026-01-01T00:00:00", command="python -m x", host="here", git="abc", config_digest="d", directory="/", **versions
        )
        write(folder / "history.jsonl", [entry])
    return folder


def full_run(folder, name=HOSTILE, **settings):
    """A run with everything that a report can show, each text of it hostile."""
    labels = ["O", "B-PER", name]
    layers = dict(
        kind="norms", groups=["embedding", "layer_0", name], parameters=[1.0, 2.0, "nan"], gradients=[1, 2, 3], updates=[0.1, 0.2, 0]
    )
    bins = dict(kind="histograms", groups={name: dict(edges=[0.0, 1.0, 2.0], counts=[3, 1])})
    found = [
        {"step": step, "report/confusion": dict(kind="confusion", labels=labels, matrix=[[5, 1, 0], [0, step, 1], [2, 0, 9]])}
        for step in (20, 60)
    ]
    found += [{"step": step, "norms/norms": layers, "norms/histograms": bins} for step in (0, 60)]
    found += [{"step": s, "ranks/ranks": dict(kind="ranks", groups=["q", name], ranks=[8 - s // 30, 4], most=[8, 8])} for s in (0, 30, 60)]
    scores = dict(kind="transitions", labels=labels, between=[[0.5, -1.0, "-inf"]] * 3, start=[1, 2, 3], end=[0, 0, -2.5])
    texts = [dict(tokens=["never", "␣odd", name, "⏎"], losses=[0.25, 7.5, "nan", None])]
    found.append({"step": 60, "crf/scores": scores, "tokens/texts": dict(kind="token_loss", texts=texts)})
    said = [{"step": step, "samples/0": f"{name} at {step}", name: "named so"} for step in (0, 30, 60)]
    run = make_run(folder, samples=said, details=found, init_from=dict(workdir=name), **settings)
    heads = [[[0.25, 0.75], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]]
    attention = dict(kind="attention", step=60, text=name, rows=["a", name], columns=["b", name])
    attention["layers"] = [dict(name="layer_0", heads=heads), dict(name="layer_1", heads=heads[::-1])]
    (run / "attention.json").write_text(json.dumps(attention))
    with open(run / "details.jsonl", "a") as file:
        for step in (0, 60):
            layers = [
                dict(name="layer_0", heads=heads),
                dict(name="layer_1", heads=[[[step / 60, 0.5], [1.0, 0.0]], [["nan", 0.5], [0, 0]]]),
            ]
            file.write(json.dumps({"step": step, "maps/0": {**attention, "layers": layers}}) + "\n")
    (run / "evaluation.json").write_text(json.dumps({"step": 60, "checkpoint": "best", "test/loss": 1 / 3, "test/report": name}))
    return run
