"""Transforms of single examples, as small named steps.

An example is a dict: `image` uint8 [H, W, 3], `label` integer [H, W], `caption` str (the first of
`captions`, where a picture has several), and whatever else its source documents. **Images are
RGB.** Some references work on BGR as OpenCV decodes it; every step here either treats the channels
alike or names their order to OpenCV, so that its result is the reference's with the channels
reversed, value for value.

A step draws its random numbers in `draw` and uses them in `apply`; calling it does both. The draws
come in the order of the reference, so recorded ones can be replayed. Steps return a new dict and
never write into arrays that they were given: sources may hand out what they keep.

`create_transforms` makes steps from a config: `(dict(name="flip", probability=0.5), …)`. The files
are named after the codebases or the kind of data whose rules they follow:

* `common`: flips, padding, normalisation, tokens; chance and choice between other steps;
* `mmseg`: mmsegmentation's recipes (ZegCLIP);
* `detectron2`: masks with classes (MaskFormer, zsseg, SAN, CAT-Seg, FC-CLIP);
* `few_shot`: squares and warps (Fusioner, LSeg);
* `regions`: the box around one class (zsseg's prompts);
* `captions`, `randaugment`: pictures with captions (CLIP, GroupViT, OVSegmentor).
"""

from data_pipelines.transforms.registry import STEPS, create_transforms
from data_pipelines.transforms.step import Example, Step, Transform

__all__ = ["STEPS", "Example", "Step", "Transform", "create_transforms"]
