"""Options of XLA for the step: one table by platform, and a run's own over it."""

import jax
import pytest

from decoder_lab.core import backend
from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import topology
from decoder_lab.training import plan as plans


def test_options_are_those_of_the_platform_and_the_runs_own_over_them():
    with backend.compiling_for("gpu"):
        alone, several = (backend.compiler_options(count, {"xla_a": 1}) for count in (1, 8))
        own = backend.compiler_options(8, dict.fromkeys(backend.OPTIONS["gpu"], False))
    assert alone == {"xla_a": 1} and several == {**backend.OPTIONS["gpu"], "xla_a": 1}
    assert set(own.values()) == {False}
    assert backend.compiler_options(8, {}) == {}, "nothing is sent between devices that are one CPU"


@pytest.mark.parametrize("name", backend.OPTIONS["gpu"])
def test_this_xla_knows_the_options(name):
    """All compilers of jaxlib share one list of options."""
    compile_ = jax.jit(lambda x: x, compiler_options={name: backend.OPTIONS["gpu"][name]}).lower(1.0).compile
    compile_()
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x, compiler_options={name + "_x": True}).lower(1.0).compile()


def test_an_option_that_xla_does_not_know_is_said_before_the_step_is_made(tmp_path):
    kw = dict(num_layers=1, num_heads=2, width=8)
    delta = dict(batch_size=8, sequence_length=8, model=dict(name="decoder_only", kw=kw))
    target = topology.Target(jax.devices()[:1], "cpu", None, None)

    def jitted(*overrides):
        return plans.Planned(config_lib.resolve(delta, overrides), tmp_path, print, target.devices, 32).jitted_step()

    assert callable(jitted("compiler_options.xla_cpu_enable_fast_math=True"))
    with pytest.raises(UserError, match="XLA says: No such compile option: 'xla_nothing'"):
        jitted("compiler_options.xla_nothing=True")
    with pytest.raises(UserError, match='jax.pmap takes none. Use parallel="jit"'):
        jitted("compiler_options.xla_cpu_enable_fast_math=True", "parallel=pmap")
