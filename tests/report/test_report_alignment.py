"""Pictures of attention: weights where they belong, tokens as they are, and a page that needs nothing but itself."""

import json
import re

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.report import alignment


def layers(num_heads=3, num_layers=2, rows=4, columns=5):
    rng = np.random.default_rng(0)
    return [(f"layer_{i}", rng.dirichlet(np.ones(columns), (num_heads, rows)).astype(np.float32)) for i in range(num_layers)]


ROWS, COLUMNS = ["le", "</script><b>", "chat", "⟨eos⟩"], ["the", "␣cat", "猫", "\\", "⟨eos⟩"]


def embedded(path):
    text = path.read_text(encoding="utf-8")
    return text, json.loads(re.search(r"const data = (.*);\n", text)[1].replace("<\\/", "</"))


def test_the_page_holds_every_weight_and_token(tmp_path):
    """A token that looks like HTML stays a token, in the data and in the title."""
    made = layers()
    text, data = embedded(alignment.page(made, ROWS, COLUMNS, tmp_path / "a.html", title="<i>x</i>", layer=0))
    assert data["rows"] == ROWS and data["columns"] == COLUMNS and data["first"] == 0
    for (name, weights_NTS), layer in zip(made, data["layers"], strict=True):
        assert layer["name"] == name
        np.testing.assert_allclose(layer["heads"], weights_NTS, atol=1e-4)
    assert text.count("</script>") == 1 and "<i>x</i>" not in text
    assert not re.search(r'(src|href)="?http', text) and "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("heads", [1, 3, 20])
def test_a_picture_is_drawn_for_any_number_of_heads(tmp_path, heads):
    import matplotlib.image

    path = alignment.png(layers(heads), ROWS, COLUMNS, tmp_path / "sub" / "a.png")
    assert matplotlib.image.imread(path).shape[0] > 200


def test_a_layer_can_be_chosen_and_changes_the_picture(tmp_path):
    pictures = [alignment.png(layers(), ROWS, COLUMNS, tmp_path / f"{i}.png", layer=i).read_bytes() for i in (0, 1, -1)]
    assert pictures[0] != pictures[1] == pictures[2]
    with pytest.raises(UserError, match="there are 2"):
        alignment.png(layers(), ROWS, COLUMNS, tmp_path / "x.png", layer=2)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="layer_0"):
        alignment.page(layers(rows=3), ROWS, COLUMNS, tmp_path / "a.html")


def test_characters_without_a_font_are_named():
    assert alignment.unshown(["the", "␣cat"]) == ""
    assert alignment.unshown(["a\ue123b"]) == "\ue123"
