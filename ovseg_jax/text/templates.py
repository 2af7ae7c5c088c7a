"""Prompt templates by name, kept as published (odd punctuation and capitals included)."""

import functools
import json
from pathlib import Path

from ovseg_jax.errors import UserError, nearest

# Second names of lists in templates.json: ZegCLIP's own terms, and that of the embedded world.
ALIASES = {
    "zegclip_single": "single_nodot",
    "zegclip15": "zegclip_multi",
    "shapes": "single_nodot",
}


@functools.cache
def _packaged() -> dict[str, list[str]]:
    return json.loads((Path(__file__).parent / "templates.json").read_text(encoding="utf-8"))


def template_names() -> tuple[str, ...]:
    """Returns the names `load_templates` knows."""
    return (*sorted(_packaged()), *ALIASES)


def load_templates(name: str) -> tuple[str, ...]:
    """Returns a named list of templates.

    Args:
      name: one of `template_names()`, or a template of one's own, recognised by its '{}'.

    Returns:
      Strings with one place for the name; `fill` puts it in.

    Raises:
      UserError: for an unknown name.
    """
    if "{}" in name:
        return (name,)
    key = ALIASES.get(name, name)
    if key not in _packaged():
        raise UserError(
            f"unknown templates {name!r} (one of your own has a {{}} where the name goes); "
            f"{nearest(name, template_names())}"
        )
    return tuple(_packaged()[key])


def fill(template: str, name: str) -> str:
    """Puts a name into a template.

    Args:
      template: with one '{}', or with the '{category}' and '{article}' of the full ViLD list
        (Gu et al. 2022), whose article is 'an' before a vowel letter.
      name: a class name.
    """
    name = name.strip()
    if "{}" in template:
        return template.replace("{}", name)
    article = "an" if name[:1].lower() in tuple("aeiou") else "a"
    return template.replace("{article}", article).replace("{category}", name)
