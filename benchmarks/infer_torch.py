"""Segmenting with `transformers`' PyTorch CLIP: the other side of a ratio in `infer.py`.

`infer.py --size clip` runs this in a process of its own where PyTorch is installed; the library
never imports PyTorch. The work is that of a training-free recipe written plainly: names with one
prompt through the text tower, windows of a resized picture through the image tower in one batch,
patch tokens into the space of the words, cosines resized to the windows and laid over each other,
resized to the picture, compared. Both sides use the same token ids and every core.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize
from transformers import CLIPConfig, CLIPModel

from ovseg_jax.text.tokenizer import ClipTokenizer

TEXT_BATCH = 256


class TorchSegmenter:
    """CLIP ViT-B/16 with random weights; `job` is what `infer.py` wrote down of the recipe."""

    def __init__(self, job: dict):
        self.job = job
        config = CLIPConfig(vision_config=dict(patch_size=16), projection_dim=512)
        self.model = CLIPModel(config).eval()
        self.tokenizer = ClipTokenizer()

    def embed(self, words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit-length embeddings [N, E] of all synonyms, and the class of each, [N]."""
        names = [name.strip() for word in words for name in word.split(",")]
        owner = [k for k, word in enumerate(words) for _ in word.split(",")]
        ids = torch.tensor(self.tokenizer([self.job["template"].format(n) for n in names])).long()
        ids = ids[:, : int((ids != 0).sum(1).max())]
        parts = [self._text(part) for part in ids.split(TEXT_BATCH)]
        return normalize(torch.cat(parts), dim=-1), torch.tensor(owner)

    def _text(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.text_projection(self.model.text_model(ids).pooler_output)

    @torch.inference_mode()
    def segment(self, picture: np.ndarray, names: torch.Tensor, owner: torch.Tensor) -> np.ndarray:
        """Picture uint8 [H, W, 3] -> labels [H, W]."""
        crop, (height, width) = self.job["crop"], self.job["size"]
        pixels = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255.0
        mean, std = (torch.tensor(self.job[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        pixels = (interpolate(pixels, (height, width), mode="bilinear") - mean) / std
        corners = self.job["corners"]  # of the windows, upper left
        batch = torch.cat([pixels[:, :, y : y + crop, x : x + crop] for y, x in corners])
        tower = self.model.vision_model
        tokens = tower(batch, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        features = normalize(self.model.visual_projection(tower.post_layernorm(tokens)), dim=-1)
        scores = (features @ names.T).transpose(1, 2)  # [windows, N, patches]
        scores = scores.unflatten(2, (crop // 16, crop // 16))
        total = torch.zeros(len(names), height, width)
        count = torch.zeros(height, width)
        for (top, left), window in zip(corners, scores, strict=True):
            box = (slice(top, top + crop), slice(left, left + crop))
            total[:, *box] += interpolate(window[None], (crop, crop), mode="bilinear")[0]
            count[box] += 1
        full = interpolate((total / count)[None], picture.shape[:2], mode="bilinear")[0]
        return owner[full.argmax(0)].numpy()


def main() -> None:
    """Prints the figures of this process as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, help="JSON that infer.py writes")
    job = json.loads(parser.parse_args().job.read_text())
    picture = np.random.default_rng(0).integers(0, 256, (*job["picture"], 3), np.uint8)
    segmenter = TorchSegmenter(job)
    with torch.inference_mode():
        names = segmenter.embed(job["words"])
    segmenter.segment(picture, *names)
    first = time.time() - job["started"]
    seconds = []
    for _ in range(job["repeats"]):
        start = time.perf_counter()
        segmenter.segment(picture, *names)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    with torch.inference_mode():
        names = segmenter.embed(job["words"][::-1])
    segmenter.segment(picture, *names)
    figures = {
        "first": first,
        "seconds": seconds,
        "other_words": time.perf_counter() - start,
        "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,  # GiB, on Linux
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
