"""The one drawing of numbers over steps: every arm has its line, seeds their band, and nothing presses the rest flat or vanishes."""

import math

import numpy as np
import pytest

from decoder_lab.report import lines
from decoder_lab.report.lines import Arm

STEPS = np.arange(0, 50, 10)


def series(*values, steps=STEPS):
    return np.asarray(steps[: len(values)]), np.asarray(values, np.float64)


def drawn(*arms):
    (axes,) = lines.panels(1)[1]
    lines.draw(axes, arms)
    return axes


def named(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_every_arm_has_a_line_and_its_seeds_a_band():
    arms = [Arm(f"arm {i}", [series(9, 3 + i, 2 + i, 1 + i), series(9, 5 + i, 4 + i, 3 + i)]) for i in range(3)]
    axes = drawn(*arms, Arm("alone", [series(9, 8, 7, 6)]))
    found = named(axes)
    assert list(found) == ["arm 0", "arm 1", "arm 2", "alone"]
    for i in range(3):
        assert found[f"arm {i}"].get_xydata().tolist() == [[0, 9], [10, 4 + i], [20, 3 + i], [30, 2 + i]]
        edges = axes.collections[i].get_paths()[0].vertices
        assert {(10.0, 3.0 + i), (10.0, 5.0 + i), (30.0, 1.0 + i), (30.0, 3.0 + i)} <= {tuple(point) for point in edges}
        assert axes.collections[i].get_facecolor()[0][:3] == pytest.approx(lines_colour(found[f"arm {i}"]))
    assert len(axes.collections) == 3 and found["alone"].get_ydata().tolist() == [9, 8, 7, 6]
    assert len({(line.get_color(), line.get_linestyle()) for line in found.values()}) == 4


def lines_colour(line):
    from matplotlib import colors

    return colors.to_rgb(line.get_color())


def test_the_untrained_model_is_outside_the_range():
    """Also where there are few points, whose 98% quantile is the first one; of a run with nothing else it is shown."""
    low, high = drawn(Arm("a", [series(9, 3, 2, 1)])).get_ylim()
    assert low < 1 and 3 < high < 4
    assert drawn(Arm("a", [series(9, 3)])).get_ylim()[1] > 9
    assert drawn(Arm("a", [series(9, 3, 2, 1, steps=STEPS + 1)])).get_ylim()[1] > 9, "a first loss of training is a loss of training"


def test_what_stopped_or_diverged_is_thin_and_marked():
    arm = Arm("a", [series(5, 4, 3, 2), series(5, 4, 3, 2)], [series(5, 4), series(5, 6, math.nan, math.inf)])
    axes = drawn(arm)
    thin = [line.get_ydata()[:2].tolist() for line in axes.get_lines() if line.get_linewidth() == lines.THIN]
    assert thin == [[5, 4], [5, 6]] and list(named(axes)) == ["a"]
    assert [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == "x"] == [[[10, 6]]]
    (only,) = drawn(Arm("b", [], [series(5, 4)])).get_lines()
    assert only.get_label() == "b" and only.get_linewidth() > lines.THIN


def test_a_gap_in_the_middle_is_marked_too_and_a_band_goes_on():
    axes = drawn(Arm("a", [series(5, 4, math.nan, 2), series(5, 6, 7, 4)]))
    assert named(axes)["a"].get_ydata().tolist() == [5, 5, 7, 3]
    assert [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == "x"] == [[[10, 4]]]


def test_a_long_line_is_smoothed_over_itself():
    values = np.tile([1.0, 3.0], 200)
    values[7] = math.nan
    axes = drawn(Arm("a", [(np.arange(1, 401), values)]))
    faint, smooth = axes.get_lines()[:2]
    assert np.nanstd(faint.get_ydata()) > 0.9 and smooth.get_label() == "a" and np.nanstd(smooth.get_ydata()[20:-20]) < 0.1
    assert np.flatnonzero(np.isnan(smooth.get_ydata())).tolist() == [7]


def test_a_band_reaches_from_the_lowest_to_the_highest_seed():
    one = np.array([0, 10, 20]), np.array([1.0, 3.0, 5.0])
    two = np.array([0, 5, 30]), np.array([2.0, 2.0, 7.0])
    steps, mean, low, high = lines.band([one, two])
    np.testing.assert_array_equal(steps, [0, 5, 10, 20])
    np.testing.assert_allclose(low, [1, 2, 3, 5])
    np.testing.assert_allclose(high, [2, 2, 3, 5])
    np.testing.assert_allclose(mean, [1.5, 2, 3, 5])


def test_learning_rates_stand_below_in_the_same_colours():
    arms = [Arm(name, [series(3, 2, 1)], rate=series(0.1, 0.2, value)) for name, value in (("a", 0.3), ("b", 0.4))]
    top, bottom = lines.figure([*arms, Arm("c", [series(1, 1, 1)])], "val/loss", "title").axes
    assert [line.get_ydata()[-1] for line in bottom.get_lines()] == [0.3, 0.4] and top.get_ylabel() == "loss"
    assert [line.get_color() for line in bottom.get_lines()] == [named(top)[name].get_color() for name in "ab"]


@pytest.mark.parametrize("finite", [0, 1, 3])
def test_a_long_line_of_few_finite_values_is_drawn_as_it_is(finite):
    values = np.full(400, math.nan)
    values[:finite] = 2.0
    line = named(drawn(Arm("a", [(np.arange(1, 401), values)])))["a"]
    assert np.isfinite(line.get_ydata()).sum() == finite
