"""Whether a run fits its devices, and how fast it can be, before it begins: its real step, compiled for them, with none of them needed."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from decoder_lab.core import backend, flops, lookup, tree
from decoder_lab.core import config as config_lib
from decoder_lab.core.axes import AXES
from decoder_lab.core.errors import UserError
from decoder_lab.data import build
from decoder_lab.parallel import collectives, layout, topology
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import reference
from decoder_lab.training import step as steps
from decoder_lab.training.experiment import Experiment
from decoder_lab.training.forecast import Plan, lines, size

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
MOST_TRIES = 8


@dataclasses.dataclass
class Planned(Experiment):
    """An experiment on devices that need not be there, for a vocabulary that need not be there either."""

    devices: Sequence[Any] = ()
    vocab_size: int = 0  # 0: of the run's tokenizer

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        chosen = self.config.mesh
        return meshes.make_mesh(self.devices, sizes={name: chosen[name] for name in AXES}, slices=chosen.slices, across=chosen.across)

    @functools.cached_property
    def tokenizer(self) -> Any:
        if not self.vocab_size:
            return Experiment.tokenizer.func(self)
        if self.by_example:
            raise UserError(f'--vocab_size: task "{self.config.task.name}" needs its data to be planned: leave it out.')
        build.suits(lookup.find("task", self.config.task.name), self.config.data.packing.name)
        return StandIn(self.vocab_size)

    @property
    def marks_texts(self) -> bool:
        return "segments" in self.batch_shapes()[0]

    def rows(self, split: str) -> Any:
        """As of a run, but what a task wants to know of the initial parameters is not worked out: only its shape is right."""
        if split not in self._rows:
            rows = build.rows_for(self.config.data, self.task, split, self.config.sequence_length, progress=self.report, facts=self._facts)
            wanted = getattr(self.task, "has_reference", False)
            self._rows[split] = reference.attached(rows, np.zeros((len(rows.examples), 2), np.float32)) if wanted else rows
        return self._rows[split]

    def state_shapes(self) -> steps.TrainState:
        """Returns the shapes of the state, a teacher's parameters among what is not trained."""
        state = jax.eval_shape(self.init_state)
        if self.teacher is None:
            return state
        return state.replace(frozen=tree.join(state.frozen or {}, {"teacher": self.teacher.parameter_shapes}))

    def batch_shapes(self) -> list[dict[str, jax.ShapeDtypeStruct]]:
        """Returns the shapes of every kind of global batch, the largest first; rows of tokens are known without data."""
        if self.by_example:
            kinds = [{name: _shape(text) for name, text in kind.items()} for kind in self.feed.shapes]
            return sorted(kinds, key=lambda kind: -sum(math.prod(x.shape) for x in kind.values()))
        size = (self.config.batch_size, self.config.sequence_length)
        dtypes = dict(tokens=np.int32, labels=np.int32, weights=np.float32)
        if self.config.data.packing.name not in ("split", "windows"):  # rows of several documents
            dtypes |= dict(segments=np.int32, positions=np.int32)
        return [{name: jax.ShapeDtypeStruct(size, dtype) for name, dtype in dtypes.items()}]


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A tokenizer of which only the size is known."""

    vocab_size: int
    eos_id: int | None = 0
    lossless: bool = False

    def fingerprint(self) -> str:
        return f"stand-in of {self.vocab_size}"


def _shape(text: str) -> jax.ShapeDtypeStruct:
    """Returns what "int32[16, 33]" says."""
    dtype, _, sizes = text.rstrip("]").partition("[")
    return jax.ShapeDtypeStruct(tuple(int(n) for n in sizes.split(",") if n.strip()), np.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Planner:
    """Plans runs for the same devices.

    Attributes:
      target: the devices.
      vocab_size: 0: of the run's own tokenizer.
      workdir: of a run whose tokenizer is used, if there is one.
      report: takes a line for the user.
    """

    target: topology.Target
    vocab_size: int = 0
    workdir: pathlib.Path | None = None
    report: Callable[[str], None] = print

    def run(self, config: Any, where: str) -> tuple[Plan, list[str]]:
        """Plans a run and says it; where it does not fit, tries what would make it. Returns (plan, overrides that were needed)."""
        estimate = "" if self.target.is_exact else ", estimated by a program for as many CPUs"
        with tempfile.TemporaryDirectory() as scratch:
            own = self.workdir if self.workdir and self.workdir.is_dir() else pathlib.Path(scratch)

            def attempt(changed: Any) -> Plan:
                experiment = Planned(changed, own, lambda line: None, self.target.devices, self.vocab_size)
                return make(experiment, self.target)[0]

            found = attempt(config)
            self.report("\n".join(lines(found, f"plan for {where}{estimate}:")))
            if found.fits:
                return found, []
            mesh = meshes.fill({name: config.mesh[name] for name in AXES}, len(self.target.devices))
            fit = find_fit(config, mesh, attempt, self.report, num_slices(self.target.devices))
        if fit is None:
            self.report("nothing that was tried makes it fit: take more devices, or a smaller model")
            return found, []
        changes, found = fit
        self.report("\n".join(lines(found, "fits with " + " ".join(f"--config.{text}" for text in changes) + ":")))
        return found, changes


def make(experiment: Planned, target: topology.Target) -> tuple[Plan, str]:
    """Returns the plan of a run, and the text of its compiled step ("" where the compiler gave up)."""
    experiment.check_batch_size()
    if experiment.config.parallel == "pmap":
        # the same step on the same devices; only jit compiles for shapes alone
        experiment = dataclasses.replace(experiment, config=_changed(experiment.config, ["parallel=jit"]))
    if experiment.config.dtype == "float32" and target.platform != "cpu":
        jax.config.update("jax_default_matmul_precision", "highest")  # as `runtime.prepare` does where such devices are
    with backend.compiling_for(target.platform):
        state = experiment.state_shapes()
        where = experiment.layout.of_state(state)
        batch = experiment.batch_shapes()[0]
        rows = {name: jax.NamedSharding(experiment.mesh, meshes.rows_spec(experiment.mesh, x.shape)) for name, x in batch.items()}
        traced = experiment.jitted_step().trace(_placed(state, where), _placed(batch, rows))
        lowered = traced.lower()
        began = time.monotonic()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            compiled, said = None, str(error)
        else:
            said = ""
    seconds, parts = time.monotonic() - began, _parts(state, where, batch, rows)
    text = compiled.as_text() if compiled else ""
    memory = compiled.memory_analysis() if compiled else None
    temporaries = memory.temp_size_in_bytes if memory else None
    lasting = sum(parts.values())
    needed = lasting + temporaries if memory else _asked(said)
    config, clock = experiment.config, experiment.clock()
    plan = Plan(
        mesh=meshes.describe(experiment.mesh),
        devices=experiment.mesh.size,
        chip=target.chip,
        parts=parts,
        temporaries=temporaries,
        needed=needed,
        capacity=target.memory,
        flops=(clock.flops_per_token or 0.0) * clock.tokens_per_step,
        collectives=collectives.summary(collectives.of_program(text)) if text else {},
        tokens=clock.tokens_per_step,
        total_steps=experiment.clockwork.total_steps,
        seconds=seconds,
        numerics=config.dtype,
        computed=flops.with_weights(traced.jaxpr) + _of_attention(experiment, clock),
        read=_read(experiment),
        length=config.sequence_length,
    )
    return plan, text


def _flops_per_token(experiment: Planned) -> Callable[[int], float] | None:
    """Returns the model's own count, where what it reads are the rows: length -> FLOPs a token; at length 0 those with weights."""
    if experiment.by_example or hasattr(experiment.task, "flops_per_token"):
        return None
    return getattr(experiment.model, "flops_per_token", None)


def _of_attention(experiment: Planned, clock: Any) -> float:
    """Returns the FLOPs of a step that grow with the length of its rows, which are products of no weights; 0 where that is not known."""
    of_model = _flops_per_token(experiment)
    return (clock.flops_per_token - of_model(0)) * clock.tokens_per_step if of_model else 0.0


def _read(experiment: Planned) -> dict[str, int]:
    """Returns the bytes that one device reads for each token of one text: weights that it is multiplied by, and the cache."""
    model, of_model, length = experiment.model, _flops_per_token(experiment), experiment.config.sequence_length
    if not (of_model and hasattr(model, "init_cache")):
        return {}
    weights = of_model(0) / 6 * np.dtype(experiment.config.dtype).itemsize  # a weight: twice forwards, four times backwards
    return {"weights": round(weights), "cache": tree.num_bytes(jax.eval_shape(lambda: model.init_cache(1, length)))}


def _placed(shapes: Any, where: Any) -> Any:
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, where)


def _parts(state: steps.TrainState, where: steps.TrainState, batch: dict, rows: dict) -> dict[str, int]:
    """Returns the bytes that a device holds of each part of the state and of the batch."""
    trees = dict(parameters="params", optimizer="opt_state", average="ema", frozen="frozen")
    found = {name: _bytes_on_a_device(getattr(state, field), getattr(where, field)) for name, field in trees.items()}
    return {name: size for name, size in found.items() if size} | {"batch": _bytes_on_a_device(batch, rows)}


def _bytes_on_a_device(shapes: Any, where: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(layout.on_a_device(shapes, where)))


def _asked(error: str) -> int:
    """Returns the bytes that a compiler says it would have needed; 0 where it does not."""
    match = re.search(r"[Uu]sed ([\d.]+)([KMG]) of", error)
    return int(float(match[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[match[2]]) if match else 0


def remedies(config: Any, mesh: Mapping[str, int], slices: int = 1) -> Iterator[tuple[str, list[str]]]:
    """Yields (why, overrides), the cheapest first: what makes a step need less memory. Each is meant on top of those before it.

    slices: groups of devices with fast links inside, which "data" goes on to cross.
    """
    fields = lookup.fields("task", config.task.name)
    if "loss_chunk" in fields and not config.task.kw.loss_chunk:
        yield "logits of few time steps at once; free", ["task.kw.loss_chunk=256"]
    copies = slices if mesh["data"] % slices == 0 else 1
    if mesh["data"] > copies:
        whole = mesh["data"] * mesh["fsdp"] // copies
        yield "parameters and optimiser in pieces; they are gathered layer by layer", [f"mesh.data={copies}", f"mesh.fsdp={whole}"]
    where = list(_remat(config.model.to_dict(), "model"))
    for policy, cost in (
        ("dots_no_batch", "keeps the results of matrices only; some per cent slower"),
        ("full", "a third more to compute"),
    ):
        changed = [f"{path}={policy}" for path, now in where if now not in (policy, "full")]
        if changed:
            yield f"layers computed again in the backward pass: {cost}", changed
    shares = math.prod(mesh[name] for name in ("data", "fsdp", "expert"))
    accumulate = config.accumulate
    apart = not getattr(lookup.find("task", config.task.name), "rows_meet", False)
    while apart and config.batch_size % (2 * accumulate * shares) == 0:
        accumulate *= 2
        yield f"micro-batches of {config.batch_size // accumulate} rows; the same result", [f"accumulate={accumulate}"]


def _remat(plugin: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in (plugin.get("kw") or {}).items():
        if name == "remat":
            yield f"{path}.kw.remat", value
        elif isinstance(value, Mapping) and "name" in value:
            yield from _remat(value, f"{path}.kw.{name}")


def find_fit(
    config: Any, mesh: Mapping[str, int], attempt: Callable[[Any], Plan], report: Callable[[str], None], slices: int = 1
) -> tuple[list[str], Plan] | None:
    """Returns (overrides, plan) of the first combination of remedies that fits; None where none does.

    mesh: the size of every axis. attempt: complete config -> its plan.
    """
    taken: dict[str, str] = {}
    for _, (why, overrides) in zip(range(MOST_TRIES), remedies(config, mesh, slices), strict=False):
        more = taken | dict(text.split("=", 1) for text in overrides)
        chosen = [f"{name}={value}" for name, value in more.items()]
        report(f"trying {' '.join(f'--config.{text}' for text in overrides)}: {why}")
        try:
            plan = attempt(_changed(config, chosen))
        except UserError as error:
            report(f"  cannot be: {str(error).splitlines()[0]}")
            continue
        taken = more
        report(f"  {'fits' if plan.fits else 'does not fit'}: {size(plan.needed)} a device")
        if plan.fits:
            return chosen, plan
    return None


def _changed(config: Any, overrides: list[str]) -> Any:
    """Returns another complete config."""
    return config_lib.resolve(json.loads(config_lib.to_json(config)), overrides)


def advice(config: Any, mesh: Mapping[str, int], slices: int = 1) -> str:
    """Returns what would make a step need less memory, a line each."""
    found = remedies(config, mesh, slices)
    return "\n".join(f"  {' '.join(f'--config.{text}' for text in overrides)}  ({why})" for why, overrides in found)


def num_slices(devices: Sequence[Any]) -> int:
    """Returns how many groups with fast links inside the devices are."""
    return len({getattr(device, "slice_index", 0) for device in devices})


@contextlib.contextmanager
def explaining(experiment: Experiment) -> Iterator[None]:
    """Inside, running out of the device's memory becomes a UserError that names the settings that would help."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        mesh = experiment.mesh
        settings = (
            advice(experiment.config, mesh.shape, num_slices(list(mesh.devices.flat)))
            or "  fewer rows (--config.batch_size), or a smaller model"
        )
        raise UserError(
            f"a step does not fit into the memory of {experiment.mesh.devices.flat[0].device_kind}: {str(error).splitlines()[0]}\n"
            f"What would help, the cheapest first:\n{settings}\nTo know beforehand: --mode=plan with the same --config."
        ) from error
