"""What systems read of a config."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.systems.system import read_settings


@dataclasses.dataclass
class Settings:
    clip: object
    prompts: int = 3
    rate: float = 0.1


def test_settings_are_what_is_no_part():
    system = dict(name="tiny", clip=dict(width=4), prompts=5)
    assert read_settings(ConfigDict(dict(system=system)), Settings) == {"prompts": 5}


def test_an_unknown_setting_is_named_with_the_nearest():
    config = ConfigDict(dict(system=dict(name="tiny", promts=5)))
    with pytest.raises(UserError, match=r"tiny has no field config\.system\.promts.*'prompts'"):
        read_settings(config, Settings)
