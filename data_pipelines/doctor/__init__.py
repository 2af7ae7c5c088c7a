"""Examines a data set on disk before hours are spent on it.

* `examine`: the splits of a data set, one after the other, and what they share;
* `labels`, `captions`: what is noted of pictures with labels, and of pictures with captions;
* `report`: what the two have in common.
"""

from data_pipelines.doctor.examine import examine, glance, save_pages

__all__ = ["examine", "glance", "save_pages"]
