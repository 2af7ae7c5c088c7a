"""CLIP ViT-B/16 from pictures with captions, from scratch.

  python -m ovseg_jax.main --config configs/clip/captions.py:cc12m --config.dtype=bfloat16

After the colon stands the data set: cc3m, cc12m, yfcc14m, redcaps12m (tar shards as img2dataset
writes them, in data/<name>) or coco_captions (the official archives). Another place, or several
sets together: --config.data.train.source.root="data/{cc3m,cc12m,yfcc14m}"; train.steps stay those
of the set after the colon.

Optimizer as Radford et al. (2021), tables 18 and 20: AdamW with b2 0.98, eps 1e-6 and decay 0.2,
rate 5e-4 for ViT-B/16, 2000 steps of warm-up, half a cosine. Batch, crops and epochs as in "SLIP"
(Mu et al., 2021), whose CLIP read as much data: 4096 pictures of 224 pixels, cut out of 50 to 100 %
of the area; 40 epochs of CC3M, 35 of CC12M, 25 of YFCC15M. Theirs has a decay of 0.5; its zero-shot
accuracy on ImageNet was 17.1, 36.5 and 37.6. RedCaps gets as many epochs as YFCC; COCO, which is
too small for more than a trial, a batch of 1024.

Evaluation reads the patches out, which never saw a mask, on VOC 2012 without background; no such
figure has been published for these data. With coco_captions it also looks for the picture of each
caption (val, the first caption of each picture).
"""

from ml_collections import ConfigDict

from configs import common
from data_pipelines.datasets import find_dataset

# Epochs, batch size.
LENGTHS = {
    "cc12m": (35, 4096),
    "cc3m": (40, 4096),
    "yfcc14m": (25, 4096),
    "redcaps12m": (25, 4096),
    "coco_captions": (40, 1024),
}
DATASETS = tuple(LENGTHS)


def coco(split: str) -> dict:
    """COCO's pictures with captions."""
    return dict(name="coco_captions", root="data/coco_captions", split=split)


def training_data(dataset: str) -> dict:
    """Pictures and captions of a data set, cut and tokenized."""
    several = dataset == "coco_captions"
    return dict(
        source=coco("train") if several else dict(name="webdataset", root=f"data/{dataset}"),
        transforms=(
            dict(name="random_resized_crop", size=(224, 224), area=(0.5, 1.0)),
            *((dict(name="choose_caption"),) if several else ()),
            dict(name="tokenize"),
            dict(name="select", keys=("image", "text")),
        ),
    )


def get_config(dataset: str = "cc12m") -> ConfigDict:
    """The recipe for one data set."""
    if dataset not in DATASETS:
        raise ValueError(f"data set {dataset} is none of {', '.join(DATASETS)}")
    config = common.base()
    config.unreadable = "skip"  # among millions of pictures from the web some are damaged
    config.system = ConfigDict(dict(name="clip", clip=common.vit_b16(224)))
    config.pretrained = ""
    config.image = ConfigDict(dict(mean=common.CLIP_MEAN, std=common.CLIP_STD))
    config.vocabulary = ConfigDict(
        dict(label_space="voc20", templates="imagenet80", tokenizer="clip", train_subset="")
    )
    config.data = ConfigDict(
        dict(
            train=training_data(dataset),
            eval=dict(
                source=dict(name="voc", root="data/voc2012", split="val", background="ignored"),
                transforms=(),
            ),
        )
    )
    if dataset == "coco_captions":
        config.data.retrieval = ConfigDict(
            dict(
                source=coco("val"),
                transforms=(
                    dict(name="center_crop"),
                    dict(name="tokenize"),
                    dict(name="select", keys=("image", "text")),
                ),
            )
        )
    config.optimizer = common.adamw(lr=5e-4, weight_decay=0.2, b2=0.98, eps=1e-6)
    config.schedule = common.schedule("cosine", warmup_steps=2000)
    pictures, (epochs, batch_size) = find_dataset(dataset).splits["train"], LENGTHS[dataset]
    config.train = common.train(batch_size, epochs * (pictures // batch_size))
    config.eval = common.evaluation(short_side=336, crop=224, stride=112)
    return config
