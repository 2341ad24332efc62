"""What cannot be on a mesh is said by the settings that a model has."""

import types

import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import layout as layouts
from decoder_lab.parallel import limits
from decoder_lab.parallel import mesh as meshes


def test_a_model_need_not_have_heads_of_keys():
    """A plug-in of one's own with `num_heads` alone."""
    layout = layouts.Layout(meshes.make_mesh(sizes=dict(data=4, tensor=2)))

    def check(num_heads):
        model = dict(name="own", kw=dict(num_heads=num_heads))
        config = types.SimpleNamespace(model=types.SimpleNamespace(to_dict=lambda: model), parallel=config_lib.resolve({}).parallel)
        limits.check(config, layout, {})

    check(4)
    with pytest.raises(UserError, match="model.kw.num_heads: 3 heads cannot be shared by mesh.tensor=2"):
        check(3)
