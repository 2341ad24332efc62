"""LoRA beside full training: sides are measured in turn, ratios are taken round by round, and memory is each process's own."""

from decoder_lab.benchmark import adapting


class Side:
    """A process whose n-th run takes `seconds[n]` a step; every run makes its peak a byte more."""

    def __init__(self, log, name, seconds):
        self.log, self.name, self.seconds, self.peak = log, name, iter(seconds), 10**9

    def ask(self, prepare=None, kw=None, count=None):
        if prepare:
            assert prepare == "adapting" and kw == dict(size="small", method=self.name.split()[1])
            return {"name": f"the {self.name.split()[0]} side"}
        self.log.append(self.name)
        self.peak += 10**9
        return {"seconds": count * next(self.seconds), "peak_bytes": self.peak}


def test_rounds_are_interleaved_and_ratios_taken_within_them():
    """The machine becomes four times slower from round to round: of the medians apart the ratio would be another."""
    log = []
    times = {"ours full": [9, 2, 8, 32], "ours lora": [9, 1, 4, 8], "peft full": [9, 3, 12, 48], "peft lora": [9, 2, 8, 32]}
    sides = {tuple(name.split()): Side(log, name, seconds) for name, seconds in times.items()}
    found = adapting.measure(sides, dict(size="small"), rounds=3, steps=2)
    assert log == list(times) * 4 and found["ours", "lora"]["runs"] == [1, 4, 8]
    head, _, ours, peft = adapting.lines(found, tokens=100)
    assert head.count("|") == ours.count("|") == peft.count("|")
    assert ours == "| ours: the ours side | 12 | 25 | 2.00 (2.00-4.00) | 5.00 | 5.00 |"
    assert peft == "| peft: the peft side | 8 | 12 | 1.50 (1.50-1.50) | 5.00 | 5.00 |"
