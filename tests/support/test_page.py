"""The page in the docs is what the tests say."""

from tests.support.make_page import PAGE, make_page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == make_page(), f"{PAGE.name} is not: run python -m tests.support.make_page"
