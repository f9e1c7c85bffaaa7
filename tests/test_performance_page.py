"""The page on performance has the figures of the committed results."""

from benchmarks.writing import PAGE, filled


def test_page_has_the_tables_of_the_results():
    page = PAGE.read_text()
    assert "<!-- memory -->" in page
    assert filled(page) == page
