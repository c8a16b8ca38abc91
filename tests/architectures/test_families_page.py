"""docs/families.md and README.md's table are what the table of families says."""

from tests.architectures.families_page import PAGE, README, page, readme


def test_the_page_is_current():
    """Mend it with `python -m tests.architectures.families_page`."""
    assert PAGE.read_text(encoding="utf-8") == page()
    text = README.read_text(encoding="utf-8")
    assert text == readme(text)
