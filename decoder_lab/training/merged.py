"""An adapted run made an ordinary one: its adapter merged into the model's weights, in a folder of its own."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.training import experiment as experiments
from decoder_lab.training import resume

MADE = ("tokenizer", "source_tokenizer", "task.json")  # what a model needs of the data


def plain_config(config: Any) -> Any:
    """Returns the config of the same run without adapter and without source of its initial parameters."""
    settings = json.loads(config_lib.to_json(config))
    return config_lib.resolve({name: value for name, value in settings.items() if name not in ("adapt", "init_from")}, spec="merged config")


def write(experiment: Any, checkpoint: str, workdir: pathlib.Path, record: Callable[[Any], Any]) -> int:
    """Writes the run's folder with merged weights; returns the checkpoint's step, which is that of the folder's one checkpoint too.

    `record` is told the config once everything else is written. Errors: UserError without an adapter, or for one that cannot be merged.
    """
    adapter = experiment.adaptation.adapter
    if adapter is None:
        raise UserError(f"{experiment.workdir} was trained without an adapter: there is nothing to merge.")
    params, step = resume.all_params(experiment, checkpoint)
    merged = adapter.merge(params)
    workdir.mkdir(parents=True, exist_ok=True)
    for name in MADE:
        source = experiment.workdir / name
        if source.is_dir():
            shutil.copytree(source, workdir / name, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copy2(source, workdir / name)
    config = plain_config(experiment.config)
    plain = experiments.Experiment(config, workdir, experiment.report)
    state = plain.init_state(merged)
    metrics = resume.make_saver(experiment.config, experiment.workdir, experiment.report).metrics(step)
    about = {"merged_from": str(experiment.workdir.absolute()), "best": {}}
    with resume.make_saver(config, workdir, experiment.report) as saver:
        saver.save(step, state.replace(step=state.step + step), about, metrics, wait=True)
    record(config)
    return step
