"""What the systems around a MaskFormer share."""

from ovseg_jax.training.partition import ParamGroup

BACKBONE_RATE = 0.1  # of the others', as published: there the backbone is a trained one


def param_groups(
    prefix: str = "maskformer/", backbone_rate: float = BACKBONE_RATE
) -> tuple[ParamGroup, ...]:
    """The published rates, and no decay of norms and query embeddings.

    Biases do decay; the constants of the backbone's norms are no parameters.

    Args:
      prefix: of the network's parameters.
      backbone_rate: factor of the backbone's rate.
    """
    return (
        ParamGroup(rf"^{prefix}backbone/", lr=backbone_rate),
        ParamGroup(rf"^{prefix}.*(/norm\d?/(scale|bias)|/queries)$", weight_decay=0.0),
        ParamGroup(rf"^{prefix}"),
    )
