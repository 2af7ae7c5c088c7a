"""The sections of model.json, as far as all converted models have the same."""

from collections.abc import Mapping

from ml_collections import ConfigDict

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def model_sections(
    system: Mapping,
    statistics: Statistics,
    templates: str,
    protocol: Mapping,
    tokenizer: str = "clip",
    notes: Mapping | None = None,
) -> ConfigDict:
    """Sections for a model that segments at once.

    Args:
      system: name and sizes.
      statistics: mean and standard deviation of the pixels in 0..255.
      templates: a name of `text.templates`, or one template.
      protocol: fields of `inference.Protocol`.
      tokenizer: 'clip', 'letters' or a folder.
      notes: what else the checkpoint tells; they go into the notes of the folder.
    """
    mean, std = statistics
    usual = dict(batch_size=1, flip=False, report_images=24, training_free=False)
    return ConfigDict(
        dict(
            system=system,
            dtype="float32",
            image=dict(mean=mean, std=std),
            vocabulary=dict(
                label_space="", templates=templates, tokenizer=tokenizer, train_subset=""
            ),
            eval=usual | protocol,
            notes=notes or {},
        )
    )


def windows(side: int) -> dict:
    """A protocol with windows of the size that a model was trained with, half of it apart."""
    return dict(short_side=side * 3 // 2, crop=side, stride=side // 2)
