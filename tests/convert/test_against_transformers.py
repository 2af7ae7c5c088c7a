"""Converted CLIPs against transformers' own PyTorch CLIP, where PyTorch is installed."""

import numpy as np
import pytest

import ovseg_jax
from ovseg_jax.convert.converter import convert
from ovseg_jax.networks.clip import normalize

torch = pytest.importorskip("torch")
clip = pytest.importorskip("transformers.models.clip")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_same_features_and_similarities(tmp_path, activation):
    torch.manual_seed(0)
    text = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=1)
    image = dict(text, hidden_size=128, intermediate_size=512, num_attention_heads=2)
    image |= dict(image_size=48, patch_size=8)
    text |= dict(vocab_size=49408, eos_token_id=49407)
    towers = {
        "text_config": text | {"hidden_act": activation},
        "vision_config": image | {"hidden_act": activation},
    }
    theirs = clip.CLIPModel(clip.CLIPConfig(projection_dim=32, **towers)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and norms are not left at 0 and 1
            parameter.add_(0.05 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "hf")
    convert(str(tmp_path / "hf"), tmp_path / "model")

    pixels = np.random.default_rng(0).normal(size=(2, 48, 48, 3)).astype(np.float32)
    tokens = np.zeros((3, 77), np.int32)
    for row, words in zip(tokens, ([320], [1125, 539], [320, 1929, 537, 2368]), strict=True):
        row[: len(words) + 2] = [49406, *words, 49407]
    with torch.no_grad():
        inputs = dict(pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)))
        expected = theirs(input_ids=torch.tensor(tokens).long(), **inputs)
        hidden = expected.vision_model_output.last_hidden_state[:, 1:]
        dense = theirs.visual_projection(theirs.vision_model.post_layernorm(hidden))

    ours = ovseg_jax.load(tmp_path / "model").model.system().clip
    pairs = {
        "image": (normalize(ours.encode_image(pixels)), expected.image_embeds),
        "text": (normalize(ours.encode_text(tokens)), expected.text_embeds),
        "dense": (ours.image.dense(pixels).reshape(2, -1, 32), dense),
        "logits": (ours(pixels, tokens), expected.logits_per_image),
    }
    for name, (actual, wanted) in pairs.items():
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=2e-4, atol=2e-5, err_msg=name)
