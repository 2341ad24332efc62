"""One long stable run, and cooldowns branched from its checkpoints: the loss at four budgets for the price of about two.

  python -m decoder_lab.sweep --config=experiments/schedules/cooldown.py --workdir=sweeps/cooldown --value=last --figure=cooldown.png

A branch is, bit for bit, the run of its length from scratch (Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed
Training Durations"): nothing before the decay depends on the length, as the warm-up is given in steps. Four runs from scratch would take
1,000 steps, this takes 520.

Hardware: 2 CPU cores. Time: 5 minutes beside other work. Measured: 2.466, 2.108, 1.920, 1.800 nats a byte on held-out files after 100,
200, 300, 400 steps (one seed).
"""

from ml_collections import ConfigDict

from decoder_lab.sweep.algebra import branches, chain


def get_config():
    config = ConfigDict()
    config.total_steps = 320
    config.batch_size = 16
    config.sequence_length = 128
    config.lr = 3e-3
    config.schedule = dict(name="warmup_stable_decay", kw=dict(warmup="10 steps", decay="0", shape="sqrt"))
    config.optimizer = dict(name="adamw", kw=dict(b1=0.9, b2=0.98))
    config.model = dict(name="decoder_only", kw=dict(num_layers=2, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu"))
    config.evaluators = dict(val=dict(name="mean", every="20 steps", kw=dict(split="validation", limit=512, batch_size=64)))
    config.checkpoint = dict(every="80 steps", keep=4)
    return config


def sweep():
    """The trunk, and a branch from each of its checkpoints whose last fifth is the decay."""
    return chain([{"@name": "stable"}], branches("stable", steps=(80, 160, 240, 320), decay="20%"))
