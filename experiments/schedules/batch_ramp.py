"""A batch size that grows from 8 to 32, beside a constant 16: the same examples seen, the same model, the same kind of decay at the end.

  python -m decoder_lab.sweep --config=experiments/schedules/batch_ramp.py --workdir=sweeps/ramp --value=last

The ramp is a chain of runs, each going on from the last one's end, optimiser state included; ramp-32 is its end. The step counts updates,
so a stage of larger batches has fewer of them for the same examples.

Hardware: 2 CPU cores. Time: 4 minutes beside other work. Measured: 2.185 nats a byte on held-out files, with the constant batch 2.101 (one
seed): so short a run wants updates more than large batches.
"""

from ml_collections import ConfigDict

from decoder_lab.sweep.algebra import chain, ramp


def get_config():
    config = ConfigDict()
    config.total_steps = 200
    config.batch_size = 16
    config.sequence_length = 128
    config.lr = 3e-3
    config.schedule = dict(name="warmup_stable_decay", kw=dict(warmup="10 steps", decay="40 steps"))
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.model = dict(name="decoder_only", kw=dict(num_layers=2, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu"))
    config.evaluators = dict(val=dict(name="mean", every="20 steps", kw=dict(split="validation", limit=512, batch_size=64)))
    config.checkpoint = dict(every="40 steps", keep=1)
    return config


def sweep():
    """3,200 examples each way; the rate falls in the ramp's last stage only."""
    stages = ramp(batch_sizes=(8, 16, 32), steps=(80, 80, 40))
    decays = ("0", "0", "20 steps")
    ramped = [{**stage, "schedule.kw.decay": decay} for stage, decay in zip(stages, decays, strict=True)]
    return chain([{"@name": "constant-16"}], ramped)
