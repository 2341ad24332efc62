"""Figures for a paper: each by its name, the same file for the same runs, what a name does not hit is listed."""

import xml.etree.ElementTree

import numpy as np
import pytest
from fake_runs import full_run, make_run

from decoder_lab.core.errors import UserError
from decoder_lab.report import figures
from decoder_lab.report import run as runs_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    for seed in (0, 1):
        make_run(folder / f"seed_{seed}", seed=seed)
    full_run(folder / "x_full", name="plain")
    return runs_of.read([folder])


@pytest.mark.parametrize(
    "name", ["loss", "learning_rate", "val/accuracy", "layers/ratio", "confusion", "transitions", "ranks", "attention"]
)
def test_every_kind_is_drawn_the_same_way_twice(runs, tmp_path, name):
    files = [figures.save(name, runs, tmp_path / f"{i}.svg") for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert xml.etree.ElementTree.parse(files[0]).getroot().tag.endswith("svg")


def test_as_png_too_and_a_name_that_there_is_not_is_answered_with_those_that_there_are(runs, tmp_path):
    from matplotlib import image

    assert image.imread(figures.save("loss", runs, tmp_path / "a" / "loss.png")).shape[1] == 1100  # 5.5 inches
    with pytest.raises(UserError, match='Did you mean "confusion"') as error:
        figures.save("confusions", runs, tmp_path / "x.png")
    assert all(name in str(error.value) for name in figures.names(runs)) and "attention" in figures.names(runs)
    assert figures.names(runs[:1]) == ["learning_rate", "loss", "throughput", *sorted(runs[0].numbers)]


def test_a_band_reaches_from_the_lowest_to_the_highest_seed():
    one = np.array([0, 10, 20]), np.array([1.0, 3.0, 5.0])
    two = np.array([0, 5, 30]), np.array([2.0, 2.0, 7.0])
    steps, mean, low, high = figures.band([one, two])
    np.testing.assert_array_equal(steps, [0, 5, 10, 20])
    np.testing.assert_allclose(low, [1, 2, 3, 5])
    np.testing.assert_allclose(high, [2, 2, 3, 5])
    np.testing.assert_allclose(mean, [1.5, 2, 3, 5])
