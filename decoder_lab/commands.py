"""What each --mode of the program does. JAX is imported inside, once the config and the flags are known to be sane."""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from decoder_lab.core import config as config_lib
from decoder_lab.core import lock, lookup, runtime, writer
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import places, processes
from decoder_lab.serving.generate import Options
from decoder_lab.training import folder

PART_OF_A_RUN = (
    "model.",
    "adapt",
    "task.",
    "data.tokenizer.",
    "data.source_tokenizer",
    "sequence_length",
    "optimizer.name",
    "ema",
)  # what its checkpoints were made by
# options of generation that --mode=predict follows
WRITES = ("num_tokens", "beam_size", "length_penalty", "length_norm", "coverage_penalty", "min_tokens", "checkpoint")


DETAILS = "evaluation_details.json"  # matrices and the like of all `--mode=evaluate`, the latest of each name
NAMES = {"import": "import_weights"}  # modes whose name is a word of Python's own


def config_for(flags: argparse.Namespace, overrides: list[str]) -> Any:
    """Returns the resolved config: of --config, or of the run in the workdir. Errors: UserError with every problem."""
    if flags.mode == "import":
        return _config_of_weights(flags, overrides)
    if flags.config:
        return config_lib.load(flags.config, overrides)
    if flags.workdir and (saved := flags.workdir / "config.json").is_file():
        return config_lib.resolve(json.loads(saved.read_text()), overrides, str(saved))
    if flags.workdir and flags.mode != "train" and not flags.workdir.exists():
        raise UserError(f"--workdir: there is no folder {flags.workdir}.")
    if flags.workdir and flags.workdir.exists():
        raise UserError(f"{flags.workdir} holds no run (there is no config.json in it): say --config=experiments/... to begin one.")
    known = sorted(str(p) for p in pathlib.Path(".").glob("experiments/**/*.py"))
    raise UserError("say --config=FILE, or --workdir of a run. Configs here: " + (", ".join(known) or "none") + ".")


def _config_of_weights(flags: argparse.Namespace, overrides: list[str]) -> Any:
    if flags.huggingface is None or flags.workdir is None or flags.config:
        raise UserError("--mode=import: say --huggingface=DIR, the model's directory, and --workdir=RUN, and no --config.")
    from decoder_lab.interop import directory, run_config

    own = any(text.startswith("data.tokenizer.name=") for text in overrides)
    return config_lib.resolve(run_config.config_of(directory.Directory(flags.huggingface), own), overrides, str(flags.huggingface))


def train(config: Any, flags: argparse.Namespace) -> int:
    """Trains, or goes on with, the run in the workdir; draws its curves at the end."""
    if flags.workdir is None:
        raise UserError("--workdir: say where the run shall live, such as --workdir=runs/first.")
    with contextlib.ExitStack() as held:
        report = _join(config, flags)
        if processes.first():  # what it refuses, all refuse: they end with it
            folder.refuse_other_config(config, flags.workdir, flags.allow_changes)
            held.enter_context(lock.RunLock(flags.workdir))
            folder.make_ready(flags.workdir)
        folder.meet_in(flags.workdir)
        runtime.prepare(config.dtype)
        lookup.import_own(config_lib.flat(config))
        from decoder_lab.training import experiment as experiments
        from decoder_lab.training import loop, plan

        def record() -> None:
            if processes.first():
                runtime.begin(flags.workdir, config_lib.to_json(config), config_lib.digest(config), sys.argv)

        experiment = experiments.Experiment(config, flags.workdir, report)
        with plan.explaining(experiment):
            code = loop.train(experiment, flags.workdir, on_start=record, patience=_patience(flags))
        if processes.first():
            runtime.end(flags.workdir, code)  # before it draws: a kill then costs a picture
            _draw(config, flags.workdir)
        if code == 0:
            report(f"next: python -m decoder_lab.main --workdir={flags.workdir} {_next_mode(config)}")
        return code


def _join(config: Any, flags: argparse.Namespace) -> Callable[[str], None]:
    """Starts this process as one of those of --distributed, if there are several; returns what takes news for the user."""
    place = places.find(flags.distributed)
    processes.start(place, flags.patience or processes.PATIENCE_SECONDS)
    theirs = config_lib.from_json(processes.share("config", config_lib.to_json(config)))
    processes.agree("config", config_lib.differences(theirs, config))
    return processes.news()


def _alone(flags: argparse.Namespace) -> None:
    """Errors: UserError where this process is one of several."""
    if place := places.find(flags.distributed):
        raise UserError(f"--mode={flags.mode} is for one process, and {place.count} were started: start one, or give --distributed=off.")


def _patience(flags: argparse.Namespace) -> float | None:
    """Returns the seconds that a step may take: without the flag no limit for one process, which is not waited for by others."""
    return flags.patience or (processes.PATIENCE_SECONDS if processes.count() > 1 else None)


def merge(config: Any, flags: argparse.Namespace) -> int:
    """Makes an ordinary run of an adapted one: its adapter merged into the weights, in the folder --output."""
    if not flags.output:
        raise UserError("--output: say which folder the merged run goes to.")
    workdir = pathlib.Path(flags.output)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"--output: {workdir} exists and is not an empty folder: name another.")
    experiment = _open_run(config, flags)
    from decoder_lab.training import merged

    def record(plain: Any) -> None:
        runtime.begin(workdir, config_lib.to_json(plain), config_lib.digest(plain), sys.argv)

    with lock.RunLock(workdir):
        step = merged.write(experiment, flags.checkpoint or "best", workdir, record)
    print(f"step {step} of {flags.workdir} merged into {workdir}")
    print(f"next: python -m decoder_lab.main --workdir={workdir} {_next_mode(config)}")
    return 0


def _next_mode(config: Any) -> str:
    """Returns the flags of what a trained model of this config is for."""
    if hasattr(_task_class(config), "predict"):
        return "--mode=predict --input=FILE"
    if hasattr(lookup.find("model", config.model.name), "init_cache"):
        return '--mode=generate --prompt="..." --num_tokens=200'
    return "--mode=evaluate --split=validation"


def _task_class(config: Any) -> Any:
    """Returns the class of the config's task, of one that wraps another that of the other."""
    plugin = config.task
    while "task" in lookup.fields("task", plugin.name):
        plugin = plugin.kw.task
    return lookup.find("task", plugin.name)


def _draw(config: Any, workdir: pathlib.Path) -> None:
    """Draws what there is to see of a run, if its numbers were written."""
    from decoder_lab.report import plots

    metrics = workdir / "metrics.jsonl"
    if not metrics.is_file():
        return
    print(f"curves: {plots.curves(metrics, workdir / 'curves.png')}")
    if config.schedule.name == "range_test":
        picture, lr = plots.range_test(metrics, workdir / "range_test.png")
        print(f"range test: {picture}; suggested peak: --config.lr={lr:.2g}")


def evaluate(config: Any, flags: argparse.Namespace) -> int:
    """Evaluates a checkpoint of a run: with the run's own evaluators, with those of --evaluator, or by one whole pass over --split."""
    if flags.split and flags.evaluator:
        raise UserError("--evaluator: such a one has a split of its own; leave --split out.")
    for name in flags.evaluator:
        lookup.fields("evaluator", name)  # an unknown one is said before anything is loaded
    report = _join(config, flags)
    experiment = _open_run(config, flags)
    from decoder_lab.evaluators import mean
    from decoder_lab.training import experiment as experiments
    from decoder_lab.training import loop, resume

    if flags.split:
        chosen = {flags.split: mean.Evaluator(experiments.Context(experiment), split=flags.split)}
    elif flags.evaluator:
        context = experiments.Context(experiment)
        chosen = {name: lookup.make("evaluator", dict(name=name, kw={}), context=context) for name in flags.evaluator}
    else:
        chosen = {name: evaluator for name, (evaluator, _) in experiments.make_evaluators(experiment).items()}
    step, results = loop.evaluate(experiment, resume.make_saver(config, flags.workdir, report), resume.which(flags.checkpoint), chosen)
    if not processes.first():
        return 0
    for name, value in results.items():
        if not isinstance(value, dict):
            print(f"{name}:\n{value}" if isinstance(value, str) else f"{name} = {value:.6g}")
    record = flags.workdir / "evaluation.json"
    plain = {name: value for name, value in results.items() if not isinstance(value, dict)}
    record.write_text(json.dumps(writer.plain({"step": step, "checkpoint": flags.checkpoint, **plain}), indent=2) + "\n")
    if details := {name: {"step": step, "detail": value} for name, value in results.items() if isinstance(value, dict)}:
        kept = flags.workdir / DETAILS
        before = json.loads(kept.read_text()) if kept.is_file() else {}
        kept.write_text(json.dumps(writer.plain(before | details)) + "\n")
        record = f"{record} and {kept}"
    print(f"written to {record}")
    return 0


def generate(config: Any, flags: argparse.Namespace) -> int:
    """Writes text with a run's checkpoint, as it is made."""
    options = _options(flags)
    experiment = _open_run(config, flags)
    from decoder_lab.serving import generate as serving
    from decoder_lab.training import resume

    params, _ = resume.inference_params(experiment, flags.checkpoint)
    serving.run(experiment.model, params, experiment.tokenizer, options, out=sys.stdout, task=experiment.task, news=sys.stderr)
    return 0


def _options(flags: argparse.Namespace) -> Options:
    """Returns the flags of generation. Errors: UserError with all that is wrong with them."""
    chosen = {name: getattr(flags, name) for name in Options.__dataclass_fields__}
    options = Options(**{name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items() if v is not None})
    if wrong := options.problems():
        raise UserError("\n".join(wrong))
    return options


def predict(config: Any, flags: argparse.Namespace) -> int:
    """Writes a prediction for every item of a file, as JSON lines; what writes texts does so greedily, or by a beam."""
    options = _options(flags)
    if not flags.input:
        raise UserError("--input: say which file holds the items, or - for standard input.")
    if flags.batch_size < 1:
        raise UserError(f"--batch_size: got {flags.batch_size}, expected 1 or more.")
    _refuse_unused(options, WRITES, "writes the most probable text of each item of --input, greedily or by --beam_size")
    if flags.input != "-" and not pathlib.Path(flags.input).is_file():
        raise UserError(f'--input: there is no file {pathlib.Path(flags.input).absolute()} ("-" reads standard input).')
    if flags.output and not pathlib.Path(flags.output).absolute().parent.is_dir():
        raise UserError(f"--output: there is no folder {pathlib.Path(flags.output).absolute().parent}.")
    if flags.output and flags.input != "-" and pathlib.Path(flags.output).resolve() == pathlib.Path(flags.input).resolve():
        raise UserError(f"--output: {flags.output} is the --input, which would be lost; name another file.")
    experiment = _open_run(config, flags)
    from decoder_lab.decoding.settings import Sampling
    from decoder_lab.serving import predict as serving
    from decoder_lab.training import resume

    kind = _task_class(config)
    if hasattr(kind, "predict"):
        _refuse_unused(options, ("checkpoint",), f'of a run of task "{config.task.name}" writes no text')
    elif not hasattr(kind, "prompt"):
        raise UserError(f'task "{config.task.name}" predicts nothing of an item; fine-tune the run with a task that does.')
    serving.check(flags.input, experiment.task, config.data.source)
    params, _ = resume.inference_params(experiment, flags.checkpoint)
    task, model = experiment.task, experiment.model
    if hasattr(task, "predict"):
        answer = serving.predictor(task, model, params, flags.batch_size)
    else:
        settings = options.settings() if options.beam_size > 1 else Sampling(min_tokens=options.min_tokens, temperature=0.0)
        sizes = dict(num_tokens=options.num_tokens, batch_size=flags.batch_size, seed=options.seed)
        answer = serving.writer(task, model, params, experiment.tokenizer, settings, **sizes)
    items = serving.read_items(flags.input, task, config.data.source)
    if not flags.output:
        serving.run(items, answer, sys.stdout)
        return 0
    with serving.output(flags.output) as out:
        number = serving.run(items, answer, out)
    print(f"{number:,} predictions written to {flags.output}", file=sys.stderr)
    return 0


def _refuse_unused(options: Options, used: tuple[str, ...], what: str) -> None:
    """Errors: UserError for flags of generation that were given and would do nothing; `what` says why."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    if given := [f"--{name}" for name, default in defaults.items() if name not in used and getattr(options, name) != default]:
        raise UserError(f"{', '.join(given)}: this mode {what}: leave it out.")


def attention(config: Any, flags: argparse.Namespace) -> int:
    """Draws where a run's model looks: the alignment of a source and its target, or self-attention within a text."""
    options = _options(flags)
    _refuse_unused(options, ("prompt", "num_tokens", "checkpoint"), "looks at one text, whose target is given or written greedily")
    if len(options.prompt) > 1:
        raise UserError(f"--prompt: got {len(options.prompt)}, and a picture shows one: give one.")
    experiment = _open_run(config, flags)
    from decoder_lab.decoding import attention_weights
    from decoder_lab.report import alignment as pictures
    from decoder_lab.serving import attention as serving
    from decoder_lab.training import resume

    given = (experiment.task, experiment.tokenizer, options.prompt[0], flags.target)
    layers = serving.check(experiment.model, experiment.parameter_shapes, *given)
    pictures.pick(layers, flags.layer)
    params, step = resume.inference_params(experiment, flags.checkpoint)
    found = serving.align(experiment.model, params, *given, experiment.source_tokenizer, options.num_tokens)
    stem = pathlib.Path(flags.output or flags.workdir / "attention")
    stem = stem.with_suffix("") if stem.suffix in (".png", ".html") else stem
    tokens = (found.layers, found.rows, found.columns)
    title = f"{flags.workdir.resolve().name}, step {step}: {found.text[:100]}"
    record = {"step": step, **attention_weights.detail(*tokens, found.text)}
    (flags.workdir / "attention.json").write_text(json.dumps(record, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    picture = pictures.png(*tokens, stem.with_name(stem.name + ".png"), flags.layer)
    page = pictures.page(*tokens, stem.with_name(stem.name + ".html"), title, flags.layer)
    print(f"{found.text}\nattention: {picture} (one layer), {page} (all layers and heads)")
    if missing := pictures.unshown([*found.rows, *found.columns]):
        print(f"no font here has {missing[:40]}: boxes in the picture; the page has the browser's fonts")
    return 0


def import_weights(config: Any, flags: argparse.Namespace) -> int:
    """Makes a run of a model's directory of Hugging Face: config, tokenizer, and its weights as the checkpoint of step 0."""
    if (flags.workdir / "config.json").exists():
        raise UserError(f"{flags.workdir} holds a run already: name another --workdir.")
    runtime.prepare(config.dtype)
    from decoder_lab.interop.directory import Directory
    from decoder_lab.training import experiment as experiments
    from decoder_lab.training import weights

    with lock.RunLock(flags.workdir):
        weights.import_run(experiments.Experiment(config, flags.workdir), Directory(flags.huggingface))
        runtime.begin(flags.workdir, config_lib.to_json(config), config_lib.digest(config), sys.argv)
    print(f"next: python -m decoder_lab.main --workdir={flags.workdir} {_next_mode(config)}")
    return 0


def export(config: Any, flags: argparse.Namespace) -> int:
    """Writes a run's model as a directory that transformers loads, or as compiled functions."""
    if not flags.output:
        raise UserError("--output: say which folder the model goes to.")
    output = pathlib.Path(flags.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: {output} exists and is not an empty folder: name another.")
    experiment = _open_run(config, flags)
    from decoder_lab.training import resume, weights

    params, _ = resume.inference_params(experiment, flags.checkpoint)
    if flags.format == "stablehlo":
        from decoder_lab.serving import compiled

        compiled.write(output, experiment, params)
    elif flags.format == "peft":
        weights.export_adapter(experiment, resume.all_params(experiment, flags.checkpoint)[0], output, flags.family)
    else:
        weights.export_run(experiment, params, output, flags.family)
    return 0


def plan(config: Any, flags: argparse.Namespace) -> int:
    """Says whether a run fits, and how fast it can be; where it does not, what would make it fit. Exit code 1: nothing was found."""
    from decoder_lab.parallel import topology as topologies

    _alone(flags)
    topology = topologies.parse(flags.topology) if flags.topology else None
    if topology:
        topologies.prepare(topology)
    runtime.prepare(config.dtype)
    from decoder_lab.training import plan as plans

    where = topology.text if topology else runtime.device_summary()
    planner = plans.Planner(topologies.target(topology), flags.vocab_size, flags.workdir, print)
    found, changes = planner.run(config, where)
    if flags.output:
        found.record(pathlib.Path(flags.output), {"where": where, "changes": changes})
        print(f"written to {flags.output}")
    return 0 if found.fits else 1


def plot_schedule(config: Any, flags: argparse.Namespace) -> int:
    """Draws the learning rate of a config over its steps; nothing is trained."""
    from decoder_lab.report import plots
    from decoder_lab.training import experiment as experiments

    folder = flags.workdir or pathlib.Path("runs")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as nowhere:  # a tokenizer made on the way, for durations in epochs, is not the run's
        experiment = experiments.Experiment(config, pathlib.Path(nowhere))
        total, lr_fn = experiment.clockwork.total_steps, experiment.schedule
    picture = plots.schedule_figure({config.schedule.name: lr_fn}, total, folder / "schedule.png")
    for step in sorted({0, total // 10, total // 2, total * 9 // 10, total}):
        print(f"step {step:>8}: lr {float(lr_fn(step)):.6g}")
    print(f"picture: {picture}")
    return 0


def replay(config: Any, flags: argparse.Namespace) -> int:
    """Runs the step that stopped a run once more and names the parameters whose gradients are not finite."""
    experiment = _open_run(config, flags)
    from decoder_lab.training import nonfinite

    for line in nonfinite.replay(experiment, flags.workdir):
        print(line)
    return 0


def _open_run(config: Any, flags: argparse.Namespace) -> Any:
    if flags.workdir is None or not (flags.workdir / "config.json").is_file():
        raise UserError(f"--workdir: expected the folder of a run (with a config.json), got {flags.workdir}.")
    changed = config_lib.differences(config_lib.from_json((flags.workdir / "config.json").read_text()), config)
    if wrong := [line for line in changed if line.startswith(PART_OF_A_RUN)]:
        lines = [f"{flags.workdir} was trained with another config:", *(f"  - {line}" for line in wrong)]
        raise UserError("\n".join([*lines, "Leave these settings out: the run knows its own."]))
    if flags.mode != "evaluate":
        _alone(flags)
    runtime.prepare(config.dtype)
    from decoder_lab.training import experiment as experiments

    return experiments.Experiment(config, flags.workdir, processes.news(lambda line: print(line, file=sys.stderr)))
