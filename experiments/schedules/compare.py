"""One model, one data set, one budget: only the learning-rate schedule differs. All of them with three seeds, a table and a figure:

  python -m decoder_lab.sweep --config=experiments/schedules/compare.py --value=last --workdir=sweeps/schedules --figure=compare.png
  python -m decoder_lab.main --config=experiments/schedules/compare.py:schedule=polynomial --workdir=runs/polynomial      # one of them

Hardware: 2 CPU cores. Time: half a minute a run, 36 runs. Measured: the table in the README.
"""

from ml_collections import ConfigDict

from decoder_lab.core.config import parse_argument
from decoder_lab.sweep.algebra import grid, product, seeds

SCHEDULES = {
    "cosine": dict(name="cosine", kw=dict(warmup="5%")),
    "constant": dict(name="constant", kw=dict(warmup="5%")),
    "linear": dict(name="linear", kw=dict(warmup="5%")),
    "polynomial": dict(name="polynomial", kw=dict(warmup="5%", power=2.0)),
    "polynomial_three": dict(name="polynomial", kw=dict(warmup="5%", power=3.0)),
    "polynomial_half": dict(name="polynomial", kw=dict(warmup="5%", power=0.5)),
    "inverse_sqrt": dict(name="inverse_sqrt", kw=dict(warmup="5%")),
    "warmup_stable_decay": dict(name="warmup_stable_decay", kw=dict(warmup="5%", decay="20%")),
    "one_cycle": dict(name="one_cycle", kw={}),
    "step": dict(name="step", kw=dict(warmup="5%")),
    "cosine_restarts": dict(name="cosine_restarts", kw=dict(warmup="5%")),
    "schedule_free": dict(name="constant", kw=dict(warmup="5%")),
}


def get_config(arg=""):
    arg = parse_argument(arg, schedule=tuple(SCHEDULES))
    config = ConfigDict()
    config.total_steps = 200
    config.batch_size = 16
    config.sequence_length = 128
    config.lr = 3e-3
    config.schedule = SCHEDULES[arg.schedule]
    free = arg.schedule == "schedule_free"
    config.optimizer = dict(name="schedule_free_adamw" if free else "adamw", kw=dict(b1=0.9, b2=0.98))
    config.model = dict(name="decoder_only", kw=dict(num_layers=2, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu"))
    config.evaluators = dict(val=dict(name="mean", every="20%", kw=dict(split="validation", limit=512, batch_size=64)))
    config.checkpoint = dict(every="50%")
    return config


def sweep():
    """Every schedule with three seeds."""
    return product(grid({":schedule": tuple(SCHEDULES)}), seeds(3))
