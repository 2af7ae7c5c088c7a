"""Sources of examples, by name."""

import importlib
import inspect
from collections.abc import Mapping

from ovseg_jax.errors import UserError, nearest

# Imported when asked for, so that one source's needs are not everyone's.
SOURCES = {
    "shapes": "data_pipelines.sources.shapes:ShapesSource",
    "shapes_regions": "data_pipelines.sources.shapes_regions:ShapesRegionsSource",
    "folder": "data_pipelines.sources.folder:FolderSource",
    "coco_stuff": "data_pipelines.sources.coco_stuff:CocoStuffSource",
    "pascal5i": "data_pipelines.sources.pascal5i:Pascal5iSource",
    "coco20i": "data_pipelines.sources.coco20i:Coco20iSource",
    "fss1000": "data_pipelines.sources.fss1000:FSS1000Source",
    "voc": "data_pipelines.sources.voc:VOCSource",
    "pascal_context": "data_pipelines.sources.pascal_context:PascalContextSource",
    "ade20k": "data_pipelines.sources.ade20k:ADE20KSource",
    "ade20k_full": "data_pipelines.sources.ade20k_full:ADE20KFullSource",
    "class_regions": "data_pipelines.sources.class_regions:ClassRegionsSource",
    "with_classes": "data_pipelines.sources.with_classes:WithClassesSource",
    "cityscapes": "data_pipelines.sources.cityscapes:CityscapesSource",
    "coco_captions": "data_pipelines.sources.coco_captions:CocoCaptionsSource",
    "webdataset": "data_pipelines.sources.webdataset:WebDatasetSource",
    "tfrecords": "data_pipelines.sources.tfrecords:TFRecordSource",
    "tfds": "data_pipelines.sources.tfds:TfdsSource",
}


def create_source(config: Mapping):
    """Builds a source from its part of a config.

    Args:
      config: `name` (a key of SOURCES) and the keyword arguments of that class.

    Returns:
      An object with `__len__` and `__getitem__(index) -> dict` of numpy arrays and strings.

    Raises:
      UserError: for an unknown source, or an argument that the source lacks or misses.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in SOURCES:
        raise UserError(f"unknown data source {name!r}; {nearest(str(name), SOURCES)}")
    module, attribute = SOURCES[name].split(":")
    source = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(source).parameters
    for key in arguments:
        if key not in parameters:
            raise UserError(f"data source {name!r} takes no {key!r}; {nearest(key, parameters)}")
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in arguments
    ]
    if missing:
        raise UserError(f"data source {name!r} needs {', '.join(map(repr, missing))}")
    return source(**arguments)
