import json

import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.weights import check_fit, load_model_json, load_weights, save_weights


def arrays(**shapes):
    return {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}


def test_saved_weights_come_back_exactly(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = {
        "blocks": {0: {"kernel": matrix.T, "bias": jnp.ones(3, jnp.bfloat16)}},
        "logit_scale": np.float32(2.5),
    }
    path = tmp_path / "new" / "model.safetensors"
    save_weights(path, params, metadata={"source": "here"})
    loaded = load_weights(path)
    assert list(loaded) == ["blocks/0/bias", "blocks/0/kernel", "logit_scale"]
    np.testing.assert_array_equal(loaded["blocks/0/kernel"], matrix.T)
    assert loaded["blocks/0/bias"].dtype == jnp.bfloat16
    assert loaded["logit_scale"].shape == () and loaded["logit_scale"] == 2.5


def test_no_file_or_half_a_file(tmp_path):
    with pytest.raises(UserError, match="no weight file at"):
        load_weights(tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    save_weights(path, arrays(a=(100,)))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"model.safetensors is not a complete safetensors file"):
        load_weights(path)


def test_a_misfit_names_offenders_of_each_kind():
    check_fit(arrays(a=(2,), b=(3,)), arrays(b=(3,), a=(2,)), "here")
    expected = arrays(a=(2,), c=(2,), d=(2,), e=(2,), f=(2,))
    with pytest.raises(UserError) as caught:
        check_fit(expected, arrays(a=(3,), b=(1,)), "folder/x")
    message = str(caught.value)
    assert message.startswith("folder/x holds another architecture")
    assert "4 parameters are missing (c, d, e, …)" in message
    assert "1 parameters are not in the model (b)" in message
    assert "a is (3,) instead of (2,)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no model.json"), ("{", "model.json is damaged"), ("\xff", "is damaged")],
)
def test_model_json(tmp_path, content, message):
    if content is not None:
        (tmp_path / "model.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        load_model_json(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"system": {"name": "clip"}}))
    assert load_model_json(tmp_path)["system"]["name"] == "clip"


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no model folder at"):
        load_model_json(tmp_path / "nowhere")
