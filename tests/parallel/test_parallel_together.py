"""What is decided together: process 0's word counts, and who disagrees is named."""

import types

import jax
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.parallel import meeting, processes


@pytest.fixture
def four(monkeypatch):
    """four(values): this process is one of four; what is gathered are these values."""

    def join(values, index=0):
        meeting = types.SimpleNamespace(index=index, count=4, hosts=["a", "b", "c", "d"], gather=lambda name, value: values)
        monkeypatch.setattr(processes, "_meeting", meeting)

    return join


def test_alone_everything_is_its_own():
    assert processes.index() == 0 and processes.count() == 1 and processes.first() and processes.host(0) == "this machine"
    assert processes.gather("x", 3) == [3] and processes.share("x", {"a": 1}) == {"a": 1}
    values = {"loss": np.float32(0.1)}
    assert processes.common("x", values) is values
    processes.agree("x", [1])  # nobody to disagree with
    processes.leave(0)


def test_who_differs_from_process_0_is_named(four):
    four(["1.0", "1.0", "2.0", "1.0"])
    with pytest.raises(UserError, match=r"do not have the same jax: process 0 on a: 1.0; process 2 on c: 2.0\. Give all"):
        processes.agree("jax", "1.0")
    four(["1.0"] * 4)
    processes.agree("jax", "1.0")


def test_numbers_in_common_are_those_of_process_0(four):
    four([{"loss": 0.5}, None, None, None], index=2)
    assert processes.common("val", {"loss": np.float32(0.25)}) == {"loss": 0.5} and not processes.first()
    assert processes.news() is processes.silent
    four([{"loss": 0.5}, None, None, None])
    assert processes.news(print) is print


def test_what_may_be_the_echo_of_a_lost_machine_waits_for_the_news():
    of_network, of_memory = jax.errors.JaxRuntimeError("INTERNAL: reset by peer"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB")
    assert processes._settle_seconds(of_network) > meeting.SILENT_SECONDS
    assert processes._settle_seconds(of_memory) == processes._settle_seconds(ValueError("a bug")) < 5
