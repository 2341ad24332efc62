"""A run that hangs ends, and says what hung and where."""

import queue
import time

from decoder_lab.core.watchdog import Watchdog


def waiting_here(seconds):
    time.sleep(seconds)


def test_what_hangs_is_named_with_its_stack_after_a_notice():
    ended, said = queue.Queue(), []
    with Watchdog(0.5, ended.put, said.append) as dog:
        dog.doing("step 7")
        waiting_here(1.0)
    text = ended.get_nowait()
    assert text.startswith("step 7 has not ended within") and "--patience=0.5" in text
    assert "Watchdog" not in text.split("\n")[0] and "waiting_here" in text.splitlines()[-2] + text.splitlines()[-1]
    assert len(said) == 1 and "step 7 has been under way" in said[0]
    assert ended.empty()


def test_what_goes_on_is_left_alone():
    ended, said = queue.Queue(), []
    with Watchdog(0.4, ended.put, said.append) as dog:
        for step in range(10):
            dog.doing(f"step {step}")
            time.sleep(0.05)
        dog.doing("evaluation", times=4)
        time.sleep(0.6)
    assert ended.empty() and not [line for line in said if "step" in line]
    with Watchdog(None, ended.put):  # one process, no flag: nothing is watched
        time.sleep(0.01)
