"""Every setting of an experiment, with its type, default and meaning: the one place where a default lives.

A config file says only what differs. A plug-in's own settings are the defaults of its own signature (see `core/lookup.py`).
Durations are strings: "200 steps" (or just "200"), "5%" of the run, "2 epochs", "1e5 examples", "3e6 tokens"; "0" means never.
On the command line a value is a Python literal where its type is no string; a list is a tuple,
`--config.optimizer.no_decay="('a$', 'b$')"`, and text that is no literal is one item, commas and all:
`--config.optimizer.no_decay='a{1,2}$'`.
"""

from decoder_lab.core.signatures import Field


def _plugin(kind: str, name: str, doc: str, **kw) -> Field:
    return Field(dict, dict(name=name, kw=kw), plugin=kind, doc=doc)


FIELDS: dict[str, Field] = {
    "seed": Field(int, 0, doc="Seeds initial parameters, dropout and the order of the data, each by its own stream."),
    "total_steps": Field(int, 1000, doc="Optimiser steps of the whole run; ignored where total_epochs is set."),
    "total_epochs": Field(float, None, optional=True, doc="Length of the run in passes over the training data, instead of total_steps."),
    "batch_size": Field(int, 32, doc="Examples of sequence_length an optimiser step, over all devices and micro-batches."),
    "sequence_length": Field(int, 256, doc="Tokens in an example (T); also the model's maximum length where it has one."),
    "accumulate": Field(int, 1, doc="Micro-batches whose gradients are summed in one optimiser step."),
    "dtype": Field(str, "float32", choices=("float32", "bfloat16", "float16"), doc="Compute dtype; parameters stay float32."),
    "matmul": Field(
        str,
        "dtype",
        choices=("dtype", "int8", "float8"),
        doc='In what linear maps multiply while training: "dtype", or 8 bits where the device is faster so (needs qwix).',
    ),
    "lr": Field(float, 1e-3, doc="Peak learning rate."),
    "weight_decay": Field(float, 0.1, doc="Decoupled weight decay, on the parameters that optimizer.no_decay does not name."),
    "clip_norm": Field(float, 1.0, doc="Global-norm clipping of the accumulated gradient; 0 is off."),
    "ema": Field(float, 0.0, doc="Decay of an exponential moving average of the parameters, used for evaluation; 0 is off."),
    "on_nonfinite": Field(
        str, "stop", choices=("stop", "skip"), doc="At a non-finite loss or gradient: stop and write the step down, or skip the update."
    ),
    "data.source": _plugin("source", "python_stdlib", "Where the raw examples come from."),
    "data.tokenizer": _plugin("tokenizer", "byte", "Text to token ids and back; of the target side where data.source_tokenizer is set."),
    "data.source_tokenizer": Field(
        dict, None, plugin="tokenizer", optional=True, doc="Tokenizer of the source side; None: data.tokenizer, learned from both sides."
    ),
    "data.packing": _plugin("packing", "split", "Documents to rows of sequence_length tokens, or examples to batches (buckets)."),
    "task": _plugin("task", "language_modeling", "What is predicted and how wrong it was."),
    "model": _plugin("model", "decoder_only", "The architecture."),
    "adapt": Field(
        dict, None, plugin="adapter", optional=True, doc="Which parameters are trained, and what is added to them; None: all, and nothing."
    ),
    "mesh.data": Field(int, -1, doc="Devices along the axis of copies of the model, each with its own rows; -1: what the others leave."),
    "mesh.fsdp": Field(int, 1, doc="Devices that share parameters, gradients and optimiser state in pieces, each with its own rows too."),
    "mesh.expert": Field(int, 1, doc="Devices that share the experts of a mixture, each with its own rows too."),
    "mesh.context": Field(int, 1, doc="Devices that share every row in time."),
    "mesh.tensor": Field(int, 1, doc="Devices that share every matrix: attention by heads, MLPs, the vocabulary."),
    "mesh.zero1": Field(bool, False, doc="Optimiser state (and ema) in pieces over mesh.data, though parameters are whole (ZeRO-1)."),
    "mesh.slices": Field(int, 0, doc="Groups of devices with fast links inside and slow ones between; 0: as the devices say."),
    "mesh.across": Field(tuple, ("data",), item=str, doc="The axes that may cross slices."),
    "mesh.rules": Field(dict, {}, doc="Regex on parameter paths -> a name for each dimension; before those of parallel/rules.py."),
    "mesh.logical": Field(dict, {}, doc='Such a name -> axes of the mesh ("" is whole on every device); over those of parallel/rules.py.'),
    "parallel": Field(
        str, "jit", choices=("jit", "pmap"), doc="The step compiled for the whole mesh, or by jax.pmap for each device (mesh.data alone)."
    ),
    "compiler_options": Field(
        dict, {}, doc="XLA's name of an option -> value, for compiling the step; over those of core/backend.py for the platform."
    ),
    "optimizer.name": Field(str, "adamw", doc="Any optimiser of optax or optax.contrib."),
    "optimizer.kw": Field(dict, {}, doc="Its arguments."),
    "optimizer.no_decay": Field(
        tuple, ("bias$", "scale$", "embedding$"), item=str, doc="Regexes on parameter paths that get no weight decay."
    ),
    "optimizer.lr_multipliers": Field(dict, {}, doc="Regex on parameter paths -> factor on the learning rate; all that match multiply."),
    "schedule": _plugin("schedule", "cosine", "Learning rate over the optimiser steps.", warmup="2%", floor=0.1),
    "evaluators": Field(
        dict,
        dict(
            val=dict(name="mean", every="10%", kw=dict(split="validation")),
            samples=dict(name="samples", every="20%", kw={}),
        ),
        plugins="evaluator",
        doc="Name -> evaluator: dict(name, every, kw). Its numbers are called <name>/<metric>.",
    ),
    "checkpoint.every": Field(str, "10%", duration=True, doc="Time between checkpoints."),
    "checkpoint.keep": Field(int, 2, doc="Newest checkpoints that are kept."),
    "checkpoint.keep_best": Field(int, 1, doc="Best checkpoints that are kept beside them, by checkpoint.metric."),
    "checkpoint.metric": Field(str, "val/loss", doc="The number that decides which checkpoint is best."),
    "checkpoint.mode": Field(str, "min", choices=("min", "max"), doc="Whether a lower or a higher checkpoint.metric is better."),
    "log.every": Field(
        str, "10", duration=True, doc="Time between lines of training numbers in the run's files; the console goes by the clock."
    ),
    "log.writers": Field(
        dict,
        dict(jsonl=dict(name="jsonl", kw={}), console=dict(name="console", kw={}), tensorboard=dict(name="tensorboard", kw={})),
        plugins="writer",
        doc="Where numbers and texts go.",
    ),
    "init_from.workdir": Field(
        str, "", doc="A run, or a model's directory of Hugging Face, whose parameters are taken as initial values; empty: none."
    ),
    "init_from.adapter": Field(
        str, "", doc="A directory that PEFT wrote, whose LoRA, DoRA, AdaLoRA or IA3 this run's adapter begins with; empty: none."
    ),
    "init_from.checkpoint": Field(str, "best", doc='Which of its checkpoints: "best", "latest" or a step.'),
    "init_from.include": Field(tuple, (".*",), item=str, doc="Regexes on the paths of its parameters that are taken."),
    "init_from.exclude": Field(tuple, (), item=str, doc="Regexes on the paths of its parameters that are left out."),
    "init_from.first_rows": Field(
        tuple, (), item=str, doc="Regexes on the paths of arrays that may have more rows than here; only the first are taken then."
    ),
    "init_from.stretch": Field(
        tuple, (), item=str, doc="Regexes on the paths of tables of fewer rows than here, such as learned positions; ours lie between them."
    ),
    "init_from.extend": Field(
        tuple, (), item=str, doc="Regexes on the paths of its tables that may be of a smaller vocabulary: new rows begin near the mean."
    ),
    "init_from.rename": Field(dict, {}, doc="Regex on its paths -> replacement, to reach the names of this run."),
}

POSITIVE = ("total_steps", "total_epochs", "batch_size", "sequence_length", "accumulate", "lr", "checkpoint.keep")
NOT_NEGATIVE = ("weight_decay", "clip_norm", "checkpoint.keep_best", "seed")
EVALUATORS_TAKEN = ("train", "time")  # the numbers of training itself are called so
# plug-in dicts may carry these keys beside name and kw
EXTRA_KEYS = {"evaluators": {"every": Field(str, "10%", duration=True, doc="Time between evaluations.")}}
