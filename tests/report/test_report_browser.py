"""The report in a real browser: it draws itself, says nothing on the console, loads nothing, and can be used by keys alone."""

import json
import pathlib
import time

import browser
import numpy as np
import pytest
from fake_runs import CONFIG, HOSTILE, full_run, make_run

from decoder_lab.report import page
from decoder_lab.report import run as runs_of

pytestmark = pytest.mark.skipif(browser.path() is None, reason=browser.ABSENT)
COLOUR = "getComputedStyle(document.body).backgroundColor"


def written(folder, *paths):
    """The file of a report."""
    file = folder / "report.html"
    file.write_text(page.page(runs_of.read(list(paths))), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def shown():
    with browser.browser() as page_:
        yield page_


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    for seed in (0, 1):
        make_run(folder / f"low_{seed}", seed=seed)
    full_run(folder / "full", lr=0.5)
    return written(folder, folder)


def first_chart(shown, address):
    """Opens the report where its first chart is; charts far from what is seen are drawn later."""
    shown.open(address)
    shown.js("document.querySelector('figure.chart').scrollIntoView({behavior: 'instant'})")
    shown.wait("document.querySelector('figure.chart path.l')")


def quiet(shown):
    assert not shown.console, shown.console
    assert all(request.startswith("file:") for request in shown.requests), shown.requests


def test_it_draws_itself_without_a_word_and_without_the_network(shown, address):
    first_chart(shown, address)
    titles = shown.js("[...document.querySelectorAll('h2')].map(e => e.textContent)")
    assert titles[:3] == ["Summary", "What differs", "Curves"] and "Attention" in titles and "CRF transitions" in titles
    assert shown.js("document.querySelectorAll('section b').length") < 200 and not shown.js("document.querySelectorAll('img').length")
    assert HOSTILE.replace("\u2028", " ")[:30] in shown.js("document.body.innerText")
    assert shown.js("document.querySelectorAll('figure.chart path.band').length") > 0  # two seeds
    quiet(shown)


def test_tools_change_what_is_drawn(shown, address):
    first_chart(shown, address)
    drawing = "document.querySelector('figure.chart svg').innerHTML"
    seen = [shown.js(drawing)]
    for name in ("seeds as bands", "log steps", "log values"):
        shown.js(f"[...document.querySelectorAll('#tools label')].find(l => l.textContent === {json.dumps(name)}).click()")
        seen.append(shown.js(drawing))
    shown.js("dispatchEvent(new Event('beforeprint'))")  # every chart, also those with a zero on a logarithmic axis
    assert "NaN" not in shown.js("[...document.querySelectorAll('figure.chart svg')].map(e => e.innerHTML).join()")
    shown.js("(s => { s.value = 0.9; s.dispatchEvent(new Event('input')); })(document.querySelector('#tools input[type=range]'))")
    shown.wait("document.querySelector('figure.chart path.raw')")
    seen.append(shown.js(drawing))
    shown.js("document.querySelector('.legend button').click()")
    seen.append(shown.js(drawing))
    assert len(set(seen)) == len(seen)
    shown.js("document.querySelector('#tools > .row > button').click()")
    shown.js("document.querySelector('#tools > .row > button').click()")
    dark = shown.js(COLOUR)
    shown.open(address)  # loaded again: what was chosen stays
    assert shown.js(COLOUR) == dark and shown.js("document.querySelector('.legend button').getAttribute('aria-pressed')") == "false"
    shown.js("sessionStorage.clear()")
    quiet(shown)


POINTS = "[...document.querySelectorAll('figure.chart path.l')].map(p => p.getAttribute('d').split(/[ML]/).length - 1)"


def test_a_diverged_seed_stands_beside_the_band_of_the_others(shown, tmp_path):
    for seed in (0, 1, 2):
        lines = [{"step": i, "val/loss": seed + 1 / (i + 1) if seed < 2 or i < 20 else "nan"} for i in range(0, 61, 4)]
        make_run(tmp_path / f"x_{seed}", lines, seed=seed)
    first_chart(shown, written(tmp_path, tmp_path))
    assert sorted(shown.js(POINTS)) == [5, 16] and shown.js("document.querySelectorAll('figure.chart .bad').length") == 11
    assert shown.js("document.querySelectorAll('figure.chart path.thin').length") == 1
    assert shown.js("document.querySelector('path.band').getAttribute('d').split('L').length") == 32  # all 16 steps, there and back
    shown.js("document.querySelector('figure.chart .plot').focus()")
    shown.key("End")
    assert "x (2 of 3 seeds)" in shown.js("document.querySelector('figure.chart .read').innerText")
    shown.js("sessionStorage.clear()")
    quiet(shown)


def test_on_paper_every_step_stands(shown, address):
    shown.open(address)
    seen = "[...document.querySelectorAll('.stepper > [data-step]')].map(e => getComputedStyle(e).display !== 'none')"
    assert False in shown.js(seen)
    shown.call("Emulation.setEmulatedMedia", media="print")
    assert set(shown.js(seen)) == {True}
    assert shown.js("getComputedStyle(document.querySelector('.stepper > [data-step] > p')).display") == "block"
    shown.call("Emulation.setEmulatedMedia", media="")


def test_keys_read_a_chart_and_move_a_slider(shown, address):
    first_chart(shown, address)
    shown.js("document.querySelector('figure.chart .plot').focus()")
    shown.key("End")
    said = shown.js("document.querySelector('figure.chart .read').innerText")
    exact = runs_of.read([pathlib.Path(address.removeprefix("file://")).parent / "full"])[0].last("val/loss")
    assert "step 60" in said and f"{exact:.5g}" in said
    shown.key("ArrowLeft")
    assert "step 40" in shown.js("document.querySelector('figure.chart .read').innerText")
    slider = "document.querySelector('.stepper input')"
    visible = "[...document.querySelectorAll('.stepper')][0].querySelector('[data-step]:not([hidden])').dataset.step"
    assert shown.js(visible) == "60"
    shown.js(f"{slider}.focus()")
    shown.key("ArrowLeft")
    assert shown.js(visible) == "30"
    shown.js("(s => { s.value = '0'; s.dispatchEvent(new Event('change')); })(document.querySelector('select[aria-label=layer]'))")
    assert shown.js("document.querySelector('table[data-attention] td[title]').textContent") == "0.38"  # mean of two heads
    quiet(shown)


def test_what_is_chosen_of_attention_holds_for_all_steps(shown, address):
    shown.open(address)
    cells = "[...document.querySelectorAll('.stepper table[data-attention]')].map(t => t.querySelector('td[title]').textContent)"
    assert shown.js(cells) == ["nan", "nan"]  # the last layer's mean, of which one head has none
    choose = "(s => { s.value = '0'; s.dispatchEvent(new Event('change')); })(document.querySelector('.stepper select[aria-label=head]'))"
    shown.js(choose)
    assert shown.js(cells) == ["0.00", "1.00"]
    shown.js(choose.replace("=head", "=layer"))
    assert shown.js(cells) == ["0.25", "0.25"]
    quiet(shown)


def test_a_table_is_sorted_by_any_column(shown, address):
    shown.open(address)
    names = "[...document.querySelector('section table').tBodies[0].rows].map(r => r.cells[0].innerText)"
    before = shown.js(names)
    shown.js("document.querySelector('section table th').click()")
    first = shown.js(names)
    shown.js("document.querySelector('section table th').focus()")
    shown.key("Enter")
    assert first == sorted(before) and shown.js(names) == sorted(before)[::-1]
    quiet(shown)


@pytest.mark.parametrize("width, dark", [(1280, True), (390, False)])
def test_dark_light_and_narrow(shown, address, width, dark):
    shown.open(address, width=width, dark=dark)
    assert shown.js("document.documentElement.scrollWidth") <= width
    light = sum(map(int, shown.js(COLOUR).removeprefix("rgb(").removesuffix(")").split(",")))
    assert (light < 150) == dark
    quiet(shown)


def test_without_a_script_the_drawings_and_all_steps_stand(shown, address):
    shown.open(address, script=False)
    assert shown.js("document.querySelectorAll('figure.chart polyline').length") > 5
    assert shown.js("[...document.querySelectorAll('.stepper > [data-step]')].every(e => !e.hidden)")
    assert shown.js("getComputedStyle(document.getElementById('tools')).display") == "none"
    quiet(shown)


@pytest.mark.slow
def test_six_runs_of_77_classes_open_in_two_seconds(shown, tmp_path):
    """12 evaluations each: 259,000 cells if all of them were drawn."""
    labels = [f"class {i}" for i in range(77)]
    matrix = np.random.default_rng(0).integers(0, 4, (77, 77)).tolist()
    for i in range(6):
        found = [{"step": step, "report/confusion": dict(kind="confusion", labels=labels, matrix=matrix)} for step in range(0, 60, 5)]
        make_run(tmp_path / f"run_{i}", details=found, lr=i + 1.0)
    where = written(tmp_path, tmp_path)
    opened = sorted(shown.open(where) for _ in range(3))
    print(f"{(tmp_path / 'report.html').stat().st_size / 1e6:.1f} MB, opened in {opened[1] / 1000:.2f} s")
    assert opened[1] < 2000
    quiet(shown)


@pytest.mark.slow
def test_fifty_runs_of_ten_thousand_points_open_in_two_seconds(shown, tmp_path, record_property):
    """And take less than 15 MB. Five numbers a line, 2.5 million points in all."""
    rng = np.random.default_rng(0)
    for i in range(50):
        noise = rng.normal(scale=0.1, size=(10_000, 3))
        names = ("train/loss", "train/accuracy", "train/grad_norm", "time/tokens_per_s", "train/lr")
        values = np.column_stack([3 / (1 + np.arange(10_000) / 900) + i / 50 + noise[:, 0], noise, 1e-3 - 1e-7 * np.arange(10_000)])
        lines = [{"step": step + 1} | dict(zip(names, row, strict=True)) for step, row in enumerate(values.tolist())]
        lines += [{"step": s, "val/loss": 3 / (1 + s / 900) + i / 50} for s in range(0, 10_001, 500)]
        make_run(tmp_path / f"run_{i:02d}", lines, config=CONFIG | dict(lr=1e-3 * (i // 2 + 1)), seed=i % 2)
    began = time.monotonic()
    where = written(tmp_path, tmp_path)
    made, size = time.monotonic() - began, (tmp_path / "report.html").stat().st_size
    opened = sorted(shown.open(where) for _ in range(3))
    drawing = "(b => { dispatchEvent(new Event('beforeprint')); return performance.now() - b; })(performance.now())"
    drawn = shown.js(drawing)  # every chart, as for paper
    assert (
        shown.js("document.querySelectorAll('figure.chart').length")
        == shown.js("document.querySelectorAll('.plot:has(path.l)').length")
        == 6
    )
    print(f"made in {made:.1f} s, {size / 1e6:.1f} MB, opened in {opened[1] / 1000:.2f} s, all charts drawn in {drawn / 1000:.2f} s more")
    assert size < 15e6 and opened[1] < 2000
    quiet(shown)
