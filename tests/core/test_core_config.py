"""The config: complete, typed, checked as a whole before JAX starts, every problem named with its nearest known name."""

import re
import subprocess
import sys

import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup, signatures
from decoder_lab.core.errors import UserError


def resolve(delta=None, *overrides):
    return config_lib.resolve(delta or {}, overrides)


def test_defaults_are_complete_and_locked():
    config = resolve()
    assert config.model.kw.num_layers > 0 and config.optimizer.kw.b2 == 0.999
    with pytest.raises(AttributeError):
        config.lrr = 1.0


@pytest.mark.parametrize(
    "override, path, value",
    [
        ("lr=1e-2", "lr", 0.01),
        ("lr=1", "lr", 1.0),
        ("total_steps=1e2", "total_steps", 100),
        ("total_epochs=2.5", "total_epochs", 2.5),
        ("model.kw.num_kv_heads=2", "model.kw.num_kv_heads", 2),
        ("model.kw.num_kv_heads=None", "model.kw.num_kv_heads", None),
        ("optimizer.no_decay=('a','b')", "optimizer.no_decay", ("a", "b")),
        ("optimizer.no_decay=a,b", "optimizer.no_decay", ("a,b",)),
        ("optimizer.no_decay=()", "optimizer.no_decay", ()),
        ("optimizer.kw.b2=0.95", "optimizer.kw.b2", 0.95),
        ("optimizer.kw.nesterov=true", "optimizer.kw.nesterov", True),
        ("optimizer.lr_multipliers.embedding=0.1", "optimizer.lr_multipliers", {"embedding": 0.1}),
        ("checkpoint.every=50", "checkpoint.every", "50"),
        ("evaluators.val.every=3%", "evaluators.val.every", "3%"),
        ("evaluators.val.kw.limit=7", "evaluators.val.kw.limit", 7),
    ],
)
def test_every_kind_of_field_can_be_set_from_the_command_line(override, path, value):
    node = resolve(None, override)
    for part in path.split("."):
        node = node[part]
    assert (node.to_dict() if hasattr(node, "to_dict") else node) == value


def test_all_problems_are_reported_at_once_with_nearest_names():
    """KNOWN_BUGS 28: a mistyped key is never ignored, neither in the file nor on the command line."""
    with pytest.raises(UserError) as error:
        resolve(
            {"learning_rte": 1.0, "batch_sise": 3, "model": {"name": "decoder_only", "kw": {"num_layer": 2}}, "data": {"sorce": {}}},
            "lrr=1",
            "seed=x",
            "model.kw.num_hads=2",
            "schedule.name=cosin",
        )
    text = str(error.value)
    for wanted in (
        "8 problems",
        '"batch_size"',
        '"model.kw.num_layers"',
        '"data.source"',
        '"lr"',
        "seed: got 'x'",
        "num_heads",
        '"cosine"',
    ):
        assert wanted in text, (wanted, text)


def test_values_are_checked():
    for override, part in [
        ("lr=-1", "more than 0"),
        ("dtype=float31", 'Did you mean "float32"?'),
        ("log.every=5 stepz", "unit"),
        ("log.every=often", "duration"),
        ("accumulate=5", "micro-batches"),
        ("optimizer.no_decay=('(',)", "regular expression"),
        ("ema=1.0", "decay in [0, 1)"),
        ("model=3", "group of settings"),
        ("total_epochs=-1", "more than 0"),
        ("lr=1e999", "finite"),
        ("model.kw.dropout=nan", "expected float"),
        ("schedule.kw.warmup=abc", "schedule.kw.warmup: duration"),
        ("evaluators.val.kw.split=validaton", 'Did you mean "validation"?'),
        ("evaluators.val.kw.limit=0", "1 or more"),
        ("optimizer.name=lbfgs", "line search"),
        ("optimizer.lr_multipliers.bias=big", "expected a number"),
        ("checkpoint.metric=vall/loss", "comes from no evaluator"),
        ("evaluators.val.every=0 epochs", "never worked out, as evaluators.val.every is '0 epochs'"),
    ]:
        with pytest.raises(UserError, match=part.replace("[", r"\[").replace("?", r"\?").replace(")", r"\)")):
            resolve(None, override)


MIXTURE = dict(source=dict(name="mixture", kw=dict(parts=dict(a=dict(name="python_stdlib")), weights=dict(a=1))))


@pytest.mark.parametrize(
    "delta, part",
    [
        (dict(evaluators=dict(train=dict(name="mean"))), "name is taken"),
        (dict(evaluators=dict(val=dict(name="mean", every=None))), r"evaluators.val.every: got None, expected a duration"),
        (dict(model=dict(name="decoder_only", kw=3)), r"model.kw: got 3, expected dict"),
        (dict(data=dict(source=dict(name="mixture", kw=dict(parts=3)))), "parts: got 3"),
        (dict(schedule=dict(name="step", kw=dict(drops=("50%", "75 %%")))), "schedule.kw.drops: duration"),
        (dict(schedule=dict(name="inverse_sqrt", kw=dict(timescale="long"))), "timescale: duration"),
        (dict(schedule=dict(name="constant", kw=dict(warmup=True))), "warmup: got True, expected a duration"),
    ],
)
def test_a_file_cannot_crash_the_check(delta, part):
    with pytest.raises(UserError, match=part):
        resolve(delta)


def test_durations_in_plugins_may_be_numbers_of_steps():
    config = resolve(dict(schedule=dict(name="step", kw=dict(warmup=10, drops=(50, "75%")))))
    assert (config.schedule.kw.warmup, config.schedule.kw.drops) == ("10", ("50", "75%"))


def test_a_nested_plugin_can_be_swapped(tmp_path):
    config = resolve(dict(data=MIXTURE), "data.source.kw.parts.a.name=text", "data.source.kw.parts.a.kw.path=a.txt")
    assert config.data.source.kw.parts.a.name == "text" and config.data.source.kw.parts.a.kw.path == "a.txt"
    with pytest.raises(UserError, match="1 problem(.|\n)*no data"):
        resolve(dict(data=MIXTURE), "data.source.kw.parts.a.name=text")
    with pytest.raises(UserError, match='1 problem(.|\n)*Did you mean "text"'):
        resolve(dict(data=MIXTURE), "data.source.kw.parts.a.name=txt")


def test_a_plugin_can_be_swapped_from_the_command_line():
    config = resolve(
        {"schedule": {"name": "cosine", "kw": {"warmup": "7%", "floor": 0.2}}}, "schedule.name=constant", "optimizer.name=lion"
    )
    assert config.schedule.name == "constant" and config.schedule.kw.warmup == "7%" and "floor" not in config.schedule.kw
    assert config.optimizer.kw.b2 == 0.99


def test_a_swapped_plugin_keeps_only_values_that_it_takes():
    """`attention` is the kind of attention in a recurrent decoder, the kernel in a Transformer; a variant is the old model's own."""
    pair = {"task": "sequence_to_sequence", "sequence_length": 64}
    decoder = {"name": "recurrent", "kw": {"attention": "additive", "width": 24}}
    base = {**pair, "model": {"name": "encoder_decoder", "kw": {"decoder": decoder}}}
    decoder = resolve(base, "model.kw.decoder.name=transformer").model.kw.decoder
    assert decoder.kw.attention == lookup.fields("decoder", "transformer")["attention"].default and decoder.kw.width == 24
    swapped = resolve({"model": {"name": "decoder_only", "kw": {"variant": "gpt2"}}}, "model.name=recurrent_lm")
    assert swapped.model.kw.variant == ""
    with pytest.raises(UserError, match="attention: got 'additve'"):
        wrong = {"name": "recurrent", "kw": {"attention": "additve"}}
        resolve({**pair, "model": {"name": "encoder_decoder", "kw": {"decoder": wrong}}}, "model.kw.decoder.name=recurrent")


def test_a_variant_expands_and_explicit_settings_win():
    base = {"model": {"name": "decoder_only", "kw": {"variant": "gpt2", "dropout": 0.3}}}
    config = resolve(base)
    assert (config.model.kw.num_layers, config.model.kw.width, config.model.kw.dropout) == (12, 768, 0.3)
    config = resolve(base, "model.kw.variant=gpt2-medium", "model.kw.num_heads=8")
    assert (config.model.kw.num_layers, config.model.kw.width, config.model.kw.num_heads) == (24, 1024, 8)
    with pytest.raises(UserError, match="gpt2-large"):
        resolve(base, "model.kw.variant=gpt2-larg")


def test_patterns_with_dots_are_keys():
    config = resolve({"optimizer": {"lr_multipliers": {"layer_.*/kernel": 0.5}}}, "optimizer.lr_multipliers.bias$=0.1")
    assert config.optimizer.lr_multipliers.to_dict() == {"layer_.*/kernel": 0.5, "bias$": 0.1}
    assert not config_lib.differences(config_lib.from_json(config_lib.to_json(config)), config)


def test_json_round_trip_hash_and_differences():
    config = resolve(None, "lr=0.5")
    again = config_lib.from_json(config_lib.to_json(config))
    assert config_lib.digest(again) == config_lib.digest(config) and not config_lib.differences(config, again)
    assert config_lib.differences(resolve(), config) == ["lr: 0.001 -> 0.5"]


def test_an_evaluator_that_never_runs_may_stand_where_it_decides_nothing():
    assert resolve(None, "evaluators.val.every=0", "checkpoint.keep_best=0").evaluators.val.every == "0"


@pytest.mark.parametrize(
    "task, model, kw, part",
    [
        ("sequence_to_sequence", "encoder_decoder", dict(max_source_length=80), "max_source_length: got 80, expected at most 64"),
        (
            "prefix_language_modeling",
            "decoder_only",
            dict(max_target_length=64),
            "a source of 0 tokens and a target of 64 do not fit a row of 64",
        ),
        ("question_answering", "span_extractor", {}, "sequence_length=64 leaves no room beside a question of 64 tokens"),
    ],
)
def test_texts_longer_than_a_row_are_found_before_anything_is_read(task, model, kw, part):
    delta = dict(task=dict(name=task, kw=kw), model=model, sequence_length=64)
    with pytest.raises(UserError, match=f"1 problem(.|\n)*{part}"):
        resolve(delta)
    resolve(delta, "sequence_length=128")


def test_a_file_with_an_argument(tmp_path, monkeypatch):
    path = tmp_path / "c.py"
    path.write_text(
        "from ml_collections import ConfigDict\nfrom decoder_lab.core.config import parse_argument\n"
        "def get_config(arg=''):\n  a = parse_argument(arg, steps=5, size='s', smoke=False)\n  c = ConfigDict()\n"
        "  c.total_steps = a.steps\n  c.batch_size = 2 if a.smoke else 4\n  return c\n"
    )
    assert config_lib.load(str(path)).total_steps == 5
    config = config_lib.load(f"{path}:steps=9,smoke", ["seed=3"])
    assert (config.total_steps, config.batch_size, config.seed) == (9, 2, 3)
    with pytest.raises(UserError, match='Did you mean "steps"'):
        config_lib.load(f"{path}:step=9")
    with pytest.raises(UserError, match="steps: got 'nine', expected int"):
        config_lib.load(f"{path}:steps=nine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no file {re.escape(str(tmp_path / 'd.py'))}"):  # named where it was looked for
        config_lib.load("d.py")
    path.write_text("def get_config():\n  return undefined_name\n")
    with pytest.raises(UserError, match=r"c\.py:2 failed: NameError"):
        config_lib.load(str(path))


@pytest.mark.parametrize("kind", [k for k in lookup.KINDS if k != "optimizer"])
def test_every_plugin_defines_the_object_of_its_kind_with_readable_fields(kind):
    assert lookup.names(kind)
    for name in lookup.names(kind):
        for key, field in lookup.fields(kind, name).items():
            assert field.type is not None, f"{kind} {name}: the annotation of {key} is not one that a config can check"
            assert field.default is not signatures.UNREADABLE, f"{kind} {name}: the default of {key} is not a literal"
        assert lookup.find(kind, name) is not None


def test_a_plugin_may_live_anywhere(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def schedule(*, peak, total_steps, steps, bend: float = 2.0):\n  return lambda step: peak * bend\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").touch()
    (tmp_path / "mine.py").rename(tmp_path / "lab" / "mine.py")
    config = resolve({"schedule": {"name": "lab.mine", "kw": {}}}, "schedule.kw.bend=3")
    assert config.schedule.kw.bend == 3.0
    assert lookup.find("schedule", "lab.mine")(peak=2.0, total_steps=1, steps=int)(0) == 4.0
    with pytest.raises(UserError, match='lab.minne cannot be found. Did you mean "lab.mine"'):
        resolve({"schedule": {"name": "lab.minne", "kw": {}}})
    for name in ("other.mine", "__main__.mine"):
        with pytest.raises(UserError, match=rf"{name} cannot be found\. Run"):
            resolve({"schedule": {"name": name, "kw": {}}})


def test_an_argument_may_be_a_choice():
    assert config_lib.parse_argument("", size=("cpu", "gpu")).size == "cpu"
    assert config_lib.parse_argument("size=gpu", size=("cpu", "gpu")).size == "gpu"
    with pytest.raises(UserError, match='"gpv" is not known. Did you mean "gpu"'):
        config_lib.parse_argument("size=gpv", size=("cpu", "gpu"))


def test_a_value_with_a_comma_stands_in_quotes():
    found = config_lib.parse_argument('data="/tmp/a,b/*.txt",size=2', data="", size=1)
    assert (found.data, found.size) == ("/tmp/a,b/*.txt", 2)
    assert config_lib.parse_argument("data=/home/o'brien/#1\\x,size=3", data="", size=1).data == "/home/o'brien/#1\\x"
    with pytest.raises(UserError, match='"b" is not known.*in double quotes: data="a,b"'):
        config_lib.parse_argument("data=a,b", data="", size=1)
    with pytest.raises(UserError, match="a double quote is not closed"):
        config_lib.parse_argument('data="a,b', data="", size=1)


def test_an_unknown_setting_of_a_nested_plugin_names_it_and_its_settings():
    delta = dict(model=dict(name="classifier", kw=dict(variant="bag")), task="classification")
    with pytest.raises(UserError, match=r"encoder\.kw\.width is not known \(bag_of_embeddings has .*embedding_dim"):
        resolve(delta, "model.kw.encoder.kw.width=8")


def test_a_setting_of_an_adapter_that_is_not_chosen_is_said():
    with pytest.raises(UserError, match="adapt.kw.rank: adapt is not set; choose one first, by --config.adapt.name=NAME"):
        resolve({}, "adapt.kw.rank=8")
    assert resolve({}, "adapt.name=lora", "adapt.kw.rank=8").adapt.kw.rank == 8


@pytest.mark.parametrize("warmup, said", [("200%", "less than 100%"), ("100 steps", "does not end within total_steps = 100")])
def test_a_warm_up_longer_than_the_run_is_listed_with_the_other_problems(warmup, said):
    with pytest.raises(UserError, match=f"2 problems(.|\n)*{said}"):
        resolve(dict(total_steps=100), f"schedule.kw.warmup={warmup}", "lr=-1")
    resolve(dict(total_steps=100, total_epochs=2.0), "schedule.kw.warmup=100 steps")  # how many steps those are is not known yet


@pytest.mark.parametrize(
    "opening, base",
    [
        ("from decoder_lab.tasks import language_modeling", "language_modeling.Task"),
        ("from decoder_lab.tasks.language_modeling import Task as Base", "Base"),
        ("from decoder_lab.tasks.language_modeling import Task", "Task"),
        ("import decoder_lab.tasks.language_modeling", "decoder_lab.tasks.language_modeling.Task"),
        ("import decoder_lab.tasks.language_modeling as lm", "lm.Task"),
    ],
)
def test_a_plugin_has_the_fields_of_its_base_class(tmp_path, monkeypatch, opening, base):
    folder = f"heirs_{abs(hash(opening + base))}"
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "weighted.py").write_text(f"{opening}\nclass Task({base}):\n  late: float = 2.0\n  text_field: str = 'body'\n")
    monkeypatch.syspath_prepend(tmp_path)
    fields = lookup.fields("task", f"{folder}.weighted")
    assert list(fields) == [*lookup.fields("task", "language_modeling"), "late"]
    assert fields["text_field"].default == "body" and lookup.given("task", f"{folder}.weighted") == ("tokenizer",)


def test_a_base_class_gives_its_variants_and_checks_too(tmp_path, monkeypatch):
    (tmp_path / "heirs").mkdir()
    (tmp_path / "heirs" / "mine.py").write_text(
        "from decoder_lab.models.decoder_only import Model\nclass Model(Model):\n  bend: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = resolve({"model": {"name": "heirs.mine", "kw": {"variant": "gpt2"}}})
    assert config.model.kw.num_layers == 12 and config.model.kw.bend == 1.0


def test_a_plugin_asks_only_for_what_its_kind_is_given(tmp_path, monkeypatch):
    (tmp_path / "askers").mkdir()
    (tmp_path / "askers" / "mine.py").write_text("def schedule(*, peak, total_steps, steps, bend: float):\n  return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="asks for bend(.|\n)*gives peak, total_steps, steps"):
        resolve({"schedule": {"name": "askers.mine"}})


def test_checking_a_config_does_not_import_jax():
    code = "import sys; from decoder_lab.core import config; config.resolve({}); assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
