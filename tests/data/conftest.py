"""What data tests share: a task that only tokenises, and configs of three plug-ins."""

import types

import pytest


class PlainTask:
    """Tokenises the field "text"."""

    text_field = "text"

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def example(self, raw):
        return {"tokens": self.tokenizer.encode(raw["text"])}

    def fingerprint(self):
        return "plain"


@pytest.fixture
def plain_task():
    return PlainTask


@pytest.fixture
def data_config():
    """data_config(source=("text", dict(...)), tokenizer=..., packing=...)."""

    def make(**plugins):
        defaults = dict(source=("python_stdlib", {}), tokenizer=("byte", {}), packing=("split", {}))
        chosen = {kind: types.SimpleNamespace(name=name, kw=kw) for kind, (name, kw) in {**defaults, **plugins}.items()}
        return types.SimpleNamespace(**chosen)

    return make


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache directory that no other test writes to."""
    monkeypatch.setenv("DECODER_LAB_CACHE", str(tmp_path / "own_cache"))
    return tmp_path / "own_cache"
