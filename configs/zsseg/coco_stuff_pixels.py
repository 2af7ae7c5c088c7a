"""zsseg's baseline without proposals on COCO-Stuff 164k, 156 seen and 15 unseen classes.

  python -m ovseg_jax.main --config configs/zsseg/coco_stuff_pixels.py --config.dtype=bfloat16

ResNet-101c with MaskFormer's pixel decoder embeds pixels, CLIP looks at the whole picture (Xu et
al., ECCV 2022, section 3). Batch 32, published on 8 GPUs; 60000 steps.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import BACKBONES, clip, data, evaluation, recipe


def get_config() -> ConfigDict:
    """The recipe."""
    config = recipe("coco_stuff_156_15_zsseg", "single")
    config.system = ConfigDict(
        dict(
            name="zsseg_pixels",
            clip=clip("vit_b16"),
            backbone=BACKBONES["r101c"],
            pixel_decoder=dict(dim=256, mask_dim=256),
            ensemble_weight=0.7,
        )
    )
    config.pretrained = "models/clip_vit_b16,models/r101c"
    config.data = data("coco_stuff_156_15_zsseg", "train", crop=640, max_size=2560, pictures="seen")
    config.train = common.train(batch_size=32, steps=60_000, eval_every=5000)
    config.eval = evaluation(640, 2560)
    config.eval.patch = 1  # CLIP sees each picture at its own size
    return config
