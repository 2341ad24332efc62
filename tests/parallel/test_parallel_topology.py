"""Devices by name: what is understood, what is refused, and what libtpu says of them where it is installed."""

import importlib.util

import pytest

from decoder_lab.core import chips, clock
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import topology


@pytest.mark.parametrize(
    "text, name, count, slices, platform",
    [
        ("v5e:16x16", "TPU v5e", 256, 1, "tpu"),
        ("v5p:4x4x8*2", "TPU v5", 256, 2, "tpu"),
        ("V4:2x2x1", "TPU v4", 4, 1, "tpu"),
        ("h100x8", "H100", 8, 1, "gpu"),
        ("h200x16", "H200", 16, 1, "gpu"),
    ],
)
def test_names_of_devices(text, name, count, slices, platform):
    found = topology.parse(text)
    assert (found.chip.name, found.count, found.slices, found.platform) == (name, count, slices, platform)
    assert found.is_exact == (platform == "tpu")


@pytest.mark.parametrize(
    "text, said", [("v5f:4x4", 'Did you mean "v5'), ("h10x8", 'Did you mean "h100"'), ("h100:8x8", "not known"), ("v5e", "v5e:16x16")]
)
def test_what_is_no_topology_is_refused_with_the_forms(text, said):
    with pytest.raises(UserError, match=said) as error:
        topology.parse(text)
    assert "v5p:4x4x8*2" in str(error.value)


def test_too_few_virtual_devices_are_said():
    with pytest.raises(UserError, match="8 devices, and h100x64 stands for 64"):
        topology.devices(topology.parse("h100x64"))
    assert len(topology.devices(topology.parse("h100x4"))) == 4


def test_jax_names_find_their_chip():
    """Names that jax gives devices; the more special ones come first."""
    names = {
        "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA H100 PCIe": 756e12,
        "TPU v5 lite": 197e12,
        "TPU v5": 459e12,
        "NVIDIA GB200": 2500e12,
    }
    for name, flops in names.items():
        assert chips.find(name).flops == flops and clock.peak_flops(name, 4) == 4 * flops
    assert chips.find("cpu") is None and clock.peak_flops("cpu", 1) is None
    for chip in chips.CHIPS:  # a slower memory than its products need: else a figure has lost a digit
        assert chip.flops / chip.bandwidth > 50 and chip.memory >= 16 * chips.GB


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, of the extra tpu, is not installed")
def test_libtpu_knows_the_topologies():
    for text, kind in (("v5e:4x4", "TPU v5 lite"), ("v5p:2x2x2", "TPU v5"), ("v6e:4x4", "TPU v6 lite"), ("v4:2x2x2", "TPU v4")):
        chosen = topology.parse(text)
        topology.prepare(chosen)
        found = topology.devices(chosen)
        assert len(found) == chosen.count and {device.device_kind for device in found} == {kind}
        assert chips.find(kind).flops == chosen.chip.flops
