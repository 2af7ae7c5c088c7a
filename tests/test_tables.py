from ovseg_jax.tables import text_table


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_ends():
    table = text_table(("name", "n", "what"), [("a", "1", "b"), ("long name", "150", "")], "lrl")
    assert table.split("\n") == ["name         n  what", "a            1  b", "long name  150"]
