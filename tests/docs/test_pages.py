"""The pages are short sentences, and their links lead somewhere."""

import pytest

from .prose import GUIDES, PAGES, ROOT, anchors, links, mean_length, sentences

LONGEST_MEAN = 18
"""Words in a sentence, on average, at most."""


def test_sentences_are_found_without_code_tables_and_headings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n\nOne. Two\ngoes on.\n\n- three\n- [four](x.md) five?\n\n```bash\nno one. reads this\n```\n\n"
        "| a | b |\n|---|---|\n> **Six.** Seven\n> eight.\n"
    )
    assert sentences(page) == ["One.", "Two goes on.", "three", "four five?", "Six.", "Seven eight."]
    assert mean_length(page) == pytest.approx(10 / 6)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guides_mean_sentence_is_short(page):
    assert mean_length(page) <= LONGEST_MEAN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_no_page_of_the_site_links_out_of_the_site():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in links(page):
            assert (page.parent / target.partition("#")[0]).resolve().is_relative_to(ROOT / "docs"), (page, target)
