"""From declaration to checked, named runs: the file's sweep() and the flags combine, and every mistake is said before anything starts."""

import json
import pathlib

import pytest
import sweep_fakes as fakes

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import declaration
from decoder_lab.sweep.declaration import Declaration


def runs(declared, folder):
    return declaration.runs(declared, declaration.arms(declared), folder)


def test_the_files_sweep_and_the_flags_combine(tmp_path):
    spec = str(fakes.config_file(tmp_path, sweep="grid({'model.kw.width': (32, 64)})"))
    more = dict(grid=("lr=1e-4,3e-4",), zip=(("clip_norm=1,2", "ema=0.5,0.9"),), random=("weight_decay=uniform(0,0.1)",), num=3, seeds=2)
    found = runs(Declaration(spec, common=("total_steps=7",), **more), tmp_path)
    assert len(found) == 2 * 2 * 2 * 3 * 2 == len({run.name for run in found}) == len({run.identity for run in found})
    assert {run.config.total_steps for run in found} == {7} and {run.config.seed for run in found} == {0, 1}
    assert {(run.config.clip_norm, run.config.ema) for run in found} == {(1.0, 0.5), (2.0, 0.9)}
    assert {run.config.model.kw.width for run in found} == {32, 64}
    assert all(json.loads(json.dumps(run.arm)) == run.arm for run in found), "an arm is plain data"


def test_values_keep_their_types_and_plug_ins_their_settings(tmp_path):
    sweep = "grid({'schedule': (dict(name='polynomial', kw=dict(power=2.0)), dict(name='step', kw=dict(drops=('50%', '75%')))),"
    sweep += " 'optimizer.no_decay': [('a{1,2}$',)], 'optimizer.lr_multipliers': {'x': 2.0}, 'dtype': 'bfloat16'})"
    poly, step = runs(Declaration(str(fakes.config_file(tmp_path, sweep=sweep))), tmp_path)
    assert poly.config.schedule.name == "polynomial" and poly.config.schedule.kw.power == 2.0
    assert step.config.schedule.kw.drops == ("50%", "75%") and step.config.optimizer.no_decay == ("a{1,2}$",)
    assert step.config.optimizer.lr_multipliers.to_dict() == {"x": 2.0} and step.config.dtype == "bfloat16"


def test_arguments_of_the_config_file_are_settings_too(tmp_path):
    path = tmp_path / "argued.py"
    path.write_text("def get_config(arg=''):\n    return dict(total_steps=len(arg))\n")
    found = runs(Declaration(f"{path}:b=1,c=2", grid=(":b=22,333", ":d=x")), tmp_path)
    assert [run.spec for run in found] == [f"{path}:c=2,b=22,d=x", f"{path}:c=2,b=333,d=x"]
    assert [run.config.total_steps for run in found] == [12, 13] and [run.name for run in found] == ["b=22", "b=333"]


def test_all_mistakes_of_all_arms_are_said_at_once(tmp_path):
    spec = str(fakes.config_file(tmp_path))
    with pytest.raises(UserError) as error:
        runs(Declaration(spec, grid=("lrr=1,2", "batch_size=8,-8,x", "model.kw.widht=8")), tmp_path)
    text = str(error.value)
    assert 'lrr is not known. Did you mean "lr"?' in text and 'Did you mean "model.kw.width"' in text and "(all 6 runs)" in text
    assert "batch_size: got -8, expected more than 0" in text and "batch_size: got 'x', expected int" in text
    for changes, said in [
        (dict(grid=("lr",)), "--grid: got 'lr'"),
        (dict(random=("lr=loguniform(1e-5)",)), r"expected loguniform\(low,high\)"),
        (dict(random=("lr=lognuniform(1,2)",)), 'Did you mean "loguniform"'),
        (dict(random=("lr=uniform(2,1)",)), "the lower first"),
        (dict(num=3), "nothing is drawn"),
        (dict(zip=(("lr=1,2", "ema=0.1"),)), "equally many"),
    ]:
        with pytest.raises(UserError, match=said):
            runs(Declaration(spec, **changes), tmp_path)
    with pytest.raises(UserError, match="expected a list of dicts"):
        runs(Declaration(str(fakes.config_file(tmp_path, sweep="dict(lr=1)"))), tmp_path)


def test_equal_runs_are_one_run_and_keep_the_name_they_have(tmp_path):
    """A sweep that is made larger repeats nothing: seed 0 is the run that had no seed in its name."""
    spec = str(fakes.config_file(tmp_path))
    first = runs(Declaration(spec, grid=("lr=0.1,0.2",)), tmp_path)
    taken = {run.identity: run.name for run in first}
    larger = Declaration(spec, grid=("lr=0.1,0.2,0.3",), seeds=2)
    found = declaration.runs(larger, declaration.arms(larger), tmp_path, taken)
    assert [run.name for run in found] == ["lr=0.1", "lr=0.1_seed=1", "lr=0.2", "lr=0.2_seed=1", "lr=0.3_seed=0", "lr=0.3_seed=1"]
    twice = Declaration(spec, grid=("seed=0,0,1",))
    assert len(runs(twice, tmp_path)) == 2


@pytest.mark.parametrize("path", sorted(str(p) for p in (fakes.ROOT / "experiments").rglob("*.py") if "def sweep(" in p.read_text()))
def test_the_sweeps_of_the_experiments_are_right(path, tmp_path):
    found = runs(Declaration(path), tmp_path)
    assert len(found) > 1 and len({run.name for run in found}) == len(found)


def test_a_branch_may_change_the_schedule_only(tmp_path):
    stable = "{'@name': 'stable', 'schedule.name': 'warmup_stable_decay', 'total_steps': 100}"
    sweep = f"product(chain([{stable}], [{{**{stable}, **arm}} for arm in []], product([{{'schedule.name': 'warmup_stable_decay'}}], "
    sweep += "branches('stable', (40, 80), '50%'))), seeds(2))"
    found = {run.name: run for run in runs(Declaration(str(fakes.config_file(tmp_path, sweep=sweep))), tmp_path / "s")}
    branch = found["stable@40_seed=1"]
    assert branch.source == "stable_seed=1@40" and branch.config.schedule.kw.decay == "40 steps"
    with pytest.raises(UserError, match=r"another model.kw.width: \d+ -> 8; what goes on from it may change only"):
        wrong = sweep.replace("branches('stable', (40, 80), '50%')", "[{'@from': 'stable@4', 'model.kw.width': 8}]")
        runs(Declaration(str(fakes.config_file(tmp_path, sweep=wrong))), tmp_path / "s")
    with pytest.raises(UserError, match='Did you mean "stable"'):
        wrong = sweep.replace("branches('stable'", "branches('stabel'")
        runs(Declaration(str(fakes.config_file(tmp_path, sweep=wrong))), tmp_path / "s")


STABLE = "{'@name': 'stable', 'schedule.name': 'warmup_stable_decay', 'total_steps': 100}"
COOLED = "product([{'schedule.name': 'warmup_stable_decay'}], branches('stable', (40,)))"


@pytest.mark.parametrize("key, values", [("lr", (0.001, 0.003)), ("model.kw.width", (32, 64))])
def test_of_several_trunks_a_branch_goes_on_from_the_one_with_its_settings(tmp_path, key, values):
    """Each learning rate's cooldown from that learning rate's stable run, though a branch might change it."""
    sweep = f"product(grid({{{key!r}: {values}}}), chain([{STABLE}], {COOLED}), seeds(2))"
    found = {run.name: run for run in runs(Declaration(str(fakes.config_file(tmp_path, sweep=sweep))), tmp_path / "s")}
    label = key.rpartition(".")[2]
    for value in values:
        for seed in (0, 1):
            assert found[f"stable@40_{label}={value}_seed={seed}"].source == f"stable_{label}={value}_seed={seed}@40"
    ramps = runs(
        Declaration(str(fakes.config_file(tmp_path, sweep=f"product(grid({{{key!r}: {values}}}), ramp((8, 16), (3, 3)))"))), tmp_path
    )
    assert [run.source for run in ramps] == ["", f"ramp-8_{label}={values[0]}@3", "", f"ramp-8_{label}={values[1]}@3"]


def test_one_trunk_may_have_branches_with_other_settings_and_several_must_be_told_apart(tmp_path):
    one = f"chain([{STABLE}], product(grid(lr=(0.001, 0.003)), {COOLED}))"
    found = runs(Declaration(str(fakes.config_file(tmp_path, sweep=one))), tmp_path)
    assert [(run.source, run.config.lr) for run in found[1:]] == [("stable@40", 0.001), ("stable@40", 0.003)]
    several = f"product(grid(lr=(0.001, 0.003)), [{STABLE}])"
    for sweep, said in [
        (f"chain({several}, {COOLED})", r'"stable" is 2 arms \(stable_lr=0.001, stable_lr=0.003\): say lr of what goes on from it too'),
        (f"chain({several}, product(grid(lr=0.01), {COOLED}))", "none of them has lr=0.01"),
        (f"chain([{STABLE}], [{{**{STABLE}, 'total_steps': 200}}], {COOLED})", "give each a name of its own"),
    ]:
        with pytest.raises(UserError, match=said):
            runs(Declaration(str(fakes.config_file(tmp_path, sweep=sweep))), tmp_path)


def test_a_trunk_elsewhere_is_known_by_its_whole_path(tmp_path, monkeypatch):
    """So it is found from every directory; a run of the same folder is known by its name, so the folder may move."""
    trunk = runs(Declaration(str(fakes.config_file(tmp_path, steps=100))), tmp_path)[0]
    (tmp_path / "s" / "runs" / "stable").mkdir(parents=True)
    (tmp_path / "s" / "runs" / "stable" / "config.json").write_text(config_lib.to_json(trunk.config))
    monkeypatch.chdir(tmp_path)
    declared = Declaration(branch="s/runs/stable", at=(40,), common=("schedule.name=warmup_stable_decay",))
    assert [run.source for run in runs(declared, tmp_path / "other")] == [f"{tmp_path}/s/runs/stable@40"]
    assert [run.source for run in runs(declared, pathlib.Path("s"))] == ["stable@40"]


def test_own_seeds_stay_when_a_sweep_is_made_larger(tmp_path):
    """Values that come later, before others in the order of the arms too, leave every earlier run as it is."""
    spec = str(fakes.config_file(tmp_path))
    first = runs(Declaration(spec, grid=("lr=0.1,0.2", "batch_size=8,16"), own_seeds=True), tmp_path)
    larger = runs(Declaration(spec, grid=("lr=0.1,0.2", "batch_size=8,16,32"), own_seeds=True), tmp_path)
    assert len({run.config.seed for run in larger}) == 6 and {run.identity for run in first} < {run.identity for run in larger}
