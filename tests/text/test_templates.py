import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.text.templates import fill, load_templates, template_names

COUNTS = {"imagenet80": 80, "zegclip15": 15, "zegclip_single": 1, "maskclip85": 85, "vild63": 63}


@pytest.mark.parametrize("name", template_names())
def test_every_template_has_one_place_for_the_name(name):
    templates = load_templates(name)
    assert len(set(templates)) == len(templates) > 0
    for template in templates:
        assert template.count("{}") + template.count("{category}") == 1
        filled = fill(template, "zebra")
        assert filled.count("zebra") == 1
        assert "{" not in filled


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_counts(name, count):
    assert len(load_templates(name)) == count


def test_zegclip_single_has_no_full_stop():
    assert load_templates("zegclip_single") == ("a photo of a {}",)


def test_article_follows_the_name():
    assert fill("There is {article} {category}.", "apple") == "There is an apple."
    assert fill("There is {article} {category}.", " pear") == "There is a pear."


def test_a_template_of_ones_own():
    assert load_templates("a drawing of {}") == ("a drawing of {}",)


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'imagenet80'"):
        load_templates("imagenet8")
