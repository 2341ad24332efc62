"""Plug-ins inside plug-ins: completed, checked and overridden at every depth, and built from what the lab gives."""

import sys

import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError

ENCODER = """
import flax.linen as nn
class Encoder(nn.Module):
  vocab_size: int
  dtype: str
  width: int = 4
  table: dict | None = None
  def __call__(self, tokens_BS, *, segments_BS=None, deterministic=True):
    return tokens_BS
def problems(kw):
  return ["width must be even, got %d" % kw["width"]] if kw["width"] % 2 else []
"""

MODEL = """
import dataclasses
import flax.linen as nn
from decoder_lab.core import lookup
from decoder_lab.core.lookup import Plugin
VARIANTS = {
  "big": dict(encoder=dict(name="nested.wide", kw=dict(width=64)), depth=3),
  "plain": dict(depth=2),
  "deep": dict(encoder=dict(name="nested.outer", kw=dict(inner=dict(name="nested.wide", kw=dict(width=64, heads=4)), width=16))),
}
class Model(nn.Module):
  vocab_size: int
  num_labels: int
  dtype: str
  variant: str = ""
  depth: int = 1
  encoder: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="nested.small", kw={}))
  other: Plugin["encoder"] | None = None
  def setup(self):
    self.inner = lookup.make("encoder", self.encoder, vocab_size=self.vocab_size, max_length=7, dtype=self.dtype)
def problems(kw):
  found = ["depth must be positive"] if kw["depth"] < 1 else []
  return found + (["encoder is wider than 100"] if kw["encoder"]["kw"]["width"] > 100 else [])
"""


OUTER = """
import dataclasses
import flax.linen as nn
from decoder_lab.core.lookup import Plugin
class Encoder(nn.Module):
  vocab_size: int
  width: int = 4
  inner: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="nested.small", kw={}))
  def __call__(self, *args, **kw):
    return self.inner(*args, **kw)
def problems(kw, length):
  return ["width must be below the length %s" % length] if length is not None and kw["width"] >= length else []
"""


@pytest.fixture(autouse=True)
def nested(tmp_path, monkeypatch):
    """Dotted-path plug-ins nested.model, nested.small, nested.wide (with one more field than small)."""
    folder = tmp_path / "nested"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "model.py").write_text(MODEL)
    (folder / "small.py").write_text(ENCODER)
    (folder / "wide.py").write_text(ENCODER.replace("width: int = 4", "width: int = 8\n  heads: int = 2"))
    monkeypatch.syspath_prepend(tmp_path)
    (folder / "outer.py").write_text(OUTER)
    lookup._read.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == "nested"]:
        monkeypatch.delitem(sys.modules, name)


def resolve(*overrides, **kw):
    return config_lib.resolve({"model": dict(name="nested.model", kw=kw)}, overrides)


def encoder(config):
    return config.model.kw.encoder.to_dict()


def test_a_nested_plugin_is_completed_and_can_be_overridden():
    assert encoder(resolve()) == dict(name="nested.small", kw=dict(width=4, table=None))
    assert encoder(resolve("model.kw.encoder.kw.width=6"))["kw"]["width"] == 6
    swapped = encoder(resolve("model.kw.encoder.name=nested.wide", "model.kw.encoder.kw.heads=3"))
    assert swapped == dict(name="nested.wide", kw=dict(width=8, heads=3, table=None))
    assert encoder(resolve(encoder="nested.wide"))["kw"]["heads"] == 2  # a name alone


def test_a_variant_may_hold_nested_plugins():
    config = resolve(variant="big")
    assert encoder(config) == dict(name="nested.wide", kw=dict(width=64, heads=2, table=None)) and config.model.kw.depth == 3
    assert encoder(resolve("model.kw.encoder.kw.heads=5", variant="big"))["kw"] == dict(width=64, heads=5, table=None)
    assert encoder(resolve("model.kw.variant=big"))["kw"]["width"] == 64
    assert encoder(resolve("model.kw.encoder.name=nested.small", variant="big")) == dict(name="nested.small", kw=dict(width=64, table=None))
    laid_over = encoder(resolve(variant="big", encoder=dict(kw=dict(heads=4))))
    assert laid_over == dict(name="nested.wide", kw=dict(width=64, heads=4, table=None))
    replaced = encoder(resolve(variant="big", encoder=dict(name="nested.small")))
    assert replaced == dict(name="nested.small", kw=dict(width=4, table=None))


def test_what_is_said_of_a_plugin_two_levels_down_is_laid_over_the_variant():
    found = encoder(resolve(variant="deep", encoder=dict(kw=dict(inner=dict(kw=dict(heads=3))))))
    assert found == dict(name="nested.outer", kw=dict(width=16, inner=dict(name="nested.wide", kw=dict(width=64, heads=3, table=None))))
    found = encoder(resolve(variant="deep", encoder=dict(kw=dict(inner=dict(name="nested.small")))))
    assert found["kw"] == dict(width=16, inner=dict(name="nested.small", kw=dict(width=4, table=None)))
    with pytest.raises(UserError, match="inner.kw: got 3, expected dict"):
        resolve(variant="deep", encoder=dict(kw=dict(inner=dict(kw=3))))


def test_a_check_may_ask_for_the_length_of_rows():
    with pytest.raises(UserError, match="model.kw.encoder: width must be below the length 12"):
        resolve("sequence_length=12", variant="deep")
    with pytest.raises(UserError, match="1 problem(.|\n)*sequence_length"):  # which is not known then
        resolve("sequence_length=-1", variant="deep")
    assert encoder(resolve("sequence_length=17", variant="deep"))["kw"]["width"] == 16
    assert lookup.problems("encoder", "nested.outer", dict(width=99)) == []


def test_what_fails_in_a_users_own_file_is_one_error_with_its_place(tmp_path):
    folder = tmp_path / "nested"
    (folder / "failing.py").write_text(ENCODER + "def problems(kw):\n  return [math.pi]\n")
    with pytest.raises(UserError, match="encoder nested.failing: its `problems` failed: NameError.*sees builtins only"):
        resolve(encoder="nested.failing")
    (folder / "broken.py").write_text("import nothing_of_this_name\n" + ENCODER)
    config = resolve(encoder="nested.broken")  # its fields are read, not run
    with pytest.raises(UserError, match=r"nested.broken cannot be imported: ModuleNotFoundError: .*broken.py:1\)"):
        lookup.import_own(config_lib.flat(config))
    lookup.import_own(
        [
            *config_lib.flat(resolve()),
            ("data.source.kw.fields.name", "./names.txt"),
            ("x.name", "no.such"),
            ("y.fields.name", "nested.broken"),
            ("y.kw", {}),
        ]
    )  # not all are modules
    assert "nested.small" in sys.modules


@pytest.mark.parametrize("kind", lookup.METHODS)
def test_all_plugins_of_the_lab_have_the_methods_of_their_kind(kind):
    assert [(name, lookup._read(kind, name).lacking) for name in lookup.names(kind) if lookup._read(kind, name).lacking] == []


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("segments_BS=None, ", "", "the argument segments_BS of __call__ must be there"),
        ("__call__", "call", "the method __call__ must be there"),
        ("*, segments_BS=None, deterministic=True", "**more", ""),
        # what cannot be told is not asked: bases that cannot be read, under whatever name, decorators, methods set in another way
        ("class", "from unreadable import Base\nclass Encoder(Base)", ""),
        ("class", "import mylab\nclass Encoder(mylab.Encoder)", ""),
        ("class", "from unreadable import Module\nclass Encoder(Module)", ""),
        ("class", "@completed\nclass Encoder(nn.Module)", ""),
        ("def __call__", "__call__ = other = lambda *args, **kw: None\n  def call", ""),
        ("  def __call__", "  if True:\n   def __call__(self): pass\n  def call", ""),
    ],
)
def test_a_plugin_without_a_method_of_its_kind_is_a_problem_of_the_config(tmp_path, old, new, said):
    text = ENCODER.replace(old, new)
    if old == "class":
        text = ENCODER.replace("class Encoder(nn.Module)", new).replace("__call__", "call")
    (tmp_path / "nested" / "own.py").write_text(text)
    if not said:
        assert encoder(resolve(encoder="nested.own"))["name"] == "nested.own"
        return
    with pytest.raises(UserError, match=f"1 problem(.|\n)*model.kw.encoder: nested.own: {said}"):
        resolve(encoder="nested.own")


def test_an_optional_one_may_be_missing_and_set_later():
    assert resolve().model.kw.other is None
    config = resolve("model.kw.other.name=nested.wide", "model.kw.other.kw.heads=7")
    assert config.model.kw.other.kw.heads == 7
    again = config_lib.from_json(config_lib.to_json(config))
    assert not config_lib.differences(config, again)
    assert not config_lib.differences(resolve(), config_lib.from_json(config_lib.to_json(resolve())))
    assert config_lib.resolve({}, ["data.source_tokenizer.name=character"]).data.source_tokenizer.name == "character"
    assert config_lib.resolve({}).data.source_tokenizer is None


def test_problems_of_all_levels_are_reported_at_once():
    with pytest.raises(UserError) as error:
        resolve(
            "lrr=1",
            "model.kw.encoder.kw.widht=3",
            depth=0,
            encoder=dict(name="nested.wide", kw=dict(width=3, hads=2)),
            other=dict(name="nested.small", kw=dict(width=5)),
        )
    text = str(error.value)
    for wanted in ('"lr"', '"model.kw.encoder.kw.width"', '"model.kw.encoder.kw.heads"', "model.kw.other: width must be even, got 5"):
        assert wanted in text, (wanted, text)
    with pytest.raises(UserError) as error:
        resolve(depth=0, encoder=dict(name="nested.wide", kw=dict(width=101)), other=dict(name="nested.small", kw=dict(width=5)))
    text = str(error.value)
    for wanted in (
        "4 problems",
        "depth must be positive",
        "wider than 100",
        "model.kw.encoder: width must be even",
        "model.kw.other: width",
    ):
        assert wanted in text, (wanted, text)
    with pytest.raises(UserError, match='1 problem(.|\n)*model.kw.encoder: encoder: "smal" is not known'):
        resolve(encoder=dict(name="smal"))
    with pytest.raises(UserError, match="model.kw.encoder: got 3, expected dict"):
        resolve(encoder=3)


def test_make_passes_what_is_asked_for_and_names_what_lacks():
    made = lookup.make("model", resolve().model, vocab_size=9, num_labels=2, dtype="float32", source_vocab_size=3)
    assert (made.vocab_size, made.num_labels, made.depth) == (9, 2, 1)
    with pytest.raises(UserError, match=r'model "nested.model" needs num_labels; here there is vocab_size, dtype. num_labels is given by'):
        lookup.make("model", resolve().model, vocab_size=9, dtype="float32")


def test_linen_modules_are_built_hashable_at_every_depth():
    kw = dict(encoder=dict(name="nested.small", kw=dict(table={"a": {"b": [1, 2]}})))
    one, same = (lookup.make("model", resolve(**kw).model, vocab_size=9, num_labels=2, dtype="float32") for _ in range(2))
    assert hash(one) == hash(same) and one == same
    inner = one.bind({}).inner
    assert hash(inner.clone(parent=None)) and inner.table["a"]["b"] == (1, 2) and inner.width == 4
    assert {one: 1}[same] == 1


def test_a_plugin_may_be_a_plain_dict_with_a_variant():
    made = lookup.make("model", dict(name="nested.model", kw=dict(variant="big", depth=5)), vocab_size=9, num_labels=2, dtype="float32")
    assert made.depth == 5 and made.encoder["name"] == "nested.wide"
    assert lookup.make("model", dict(name="nested.model"), vocab_size=9, num_labels=2, dtype="float32").depth == 1


def test_fields_come_from_a_base_class_of_another_module(tmp_path):
    (tmp_path / "nested" / "heir.py").write_text(
        "from nested import model\nclass Model(model.Model):\n  max_length: int\n  depth: int = 9\n  extra: float = 0.5\n"
    )
    assert set(lookup.given("model", "nested.heir")) == {"vocab_size", "num_labels", "dtype", "max_length"}
    config = config_lib.resolve({"model": dict(name="nested.heir", kw=dict(variant="plain"))}, ["model.kw.encoder.kw.width=10"])
    assert (config.model.kw.depth, config.model.kw.extra, config.model.kw.encoder.kw.width) == (2, 0.5, 10)
    with pytest.raises(UserError, match="depth must be positive"):
        config_lib.resolve({"model": dict(name="nested.heir", kw=dict(depth=0))})
