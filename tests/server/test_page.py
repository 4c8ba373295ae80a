"""The page at `/`, in a real browser."""

import pytest

from mlx_diffucoder import GenerationConfig, generate

from .browser import CHROMIUM, Page
from .conftest import PROMPTS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    made = Page(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


def test_it_needs_nothing_from_elsewhere(server):
    answer = server.http.get("/")
    assert "http://" not in answer.text and "https://" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_prompt_is_denoised_as_generate_does_it_and_the_masks_are_seen(server, page, pocket):
    page.open(server.url + "/")
    assert page.wait_for("document.querySelector('#model').textContent === 'pocket'")
    page.do(
        "window.seen = 0; new MutationObserver(() => window.seen += !!document.querySelector('.mask'))"
        ".observe(document.querySelector('#canvas'), {childList: true})"
    )
    page.do(f"document.querySelector('#prompt').value = {PROMPTS[1]!r}; document.querySelector('#most').value = 64")
    page.do("document.querySelector('#run').click()")
    numbers = page.wait_for("document.querySelector('#numbers').textContent")
    assert page.do("document.querySelector('#canvas').textContent") == generate(
        *pocket, PROMPTS[1], GenerationConfig(max_tokens=64)
    )
    assert "tokens a forward" in numbers and page.do("window.seen") > 0


def test_a_hole_that_is_punched_is_filled_between_the_texts(server, page):
    page.open(server.url + "/#holes")
    page.wait_for("document.querySelector('#model').textContent === 'pocket'")
    page.do("""{ const file = document.querySelector('#file'); file.value = 'def add(a, b):\\n    XX\\n\\nprint(add(1, 2))\\n';
        file.setSelectionRange(19, 21); document.querySelector('#punch').click(); document.querySelector('#run').click() }""")
    page.wait_for("document.querySelector('#numbers').textContent")
    text = page.do("document.querySelector('#canvas').textContent")
    assert text.startswith("def add(a, b):\n    return") and text.endswith("\n\nprint(add(1, 2))\n") and "XX" not in text


def test_what_goes_wrong_is_told_on_the_page(server, page):
    page.open(server.url + "/#holes")
    page.wait_for("document.querySelector('#model').textContent === 'pocket'")
    page.do("document.querySelector('#file').value = 'no hole'; document.querySelector('#run').click()")
    assert "there is no hole" in page.wait_for("document.querySelector('#error').textContent")
