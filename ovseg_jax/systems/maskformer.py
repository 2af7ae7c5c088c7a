"""What the systems around a MaskFormer share."""

from ovseg_jax.training.partition import ParamGroup


def param_groups(prefix: str = "maskformer/") -> tuple[ParamGroup, ...]:
    """The published rates: a tenth for the backbone, no decay of norms and query embeddings.

    Biases do decay; the constants of the backbone's norms are no parameters.

    Args:
      prefix: of the network's parameters.
    """
    return (
        ParamGroup(rf"^{prefix}backbone/", lr=0.1),
        ParamGroup(rf"^{prefix}.*(/norm\d?/(scale|bias)|/queries)$", weight_decay=0.0),
        ParamGroup(rf"^{prefix}"),
    )
