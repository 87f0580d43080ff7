"""The rendered book in headless Chromium, opened from the file system as a reader would.

Run on a small throw-away book always, and on the real one where `make book` has built it. Without Chromium the tests
are skipped, with a reason; SLIMLIB_BROWSER_TESTS=required makes a skip a failure (CI, after the book is built).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from slimlib import book

pytestmark = pytest.mark.browser
REPOSITORY = Path(__file__).resolve().parents[1]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
SEARCHED = "eigenvalues"
"""A word that both books contain."""
OPTIONS = "Give `--only` or `-p seed=7` or " * 40
"""Options at every place of a line."""


def skip(reason: str):
    if os.environ.get("SLIMLIB_BROWSER_TESTS") == "required":
        pytest.fail(f"required, yet {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    programs = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, programs)), None)
    if executable is None:
        skip("no chromium on PATH (apt-get install chromium)")
    try:
        from playwright import sync_api
    except ImportError:
        skip("playwright is not installed (pip install 'slimlib[test]')")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


def small_book(root: Path) -> Path:
    """Pages with all that can go wrong: mathematics, a citation, a figure, a table, a progress bar, an exercise, long lines."""
    (root / "book" / "_static").mkdir(parents=True)
    shutil.copy(REPOSITORY / "_config.yml", root)
    shutil.copy(REPOSITORY / "book" / "references.bib", root / "book")
    shutil.copy(REPOSITORY / "book" / "_static" / "slim.css", root / "book" / "_static")
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n- file: results/quick/01_page\n- file: bibliography\n"
    )
    (root / "book" / "bibliography.md").write_text("# Bibliography\n\n```{bibliography}\n:all:\n```\n")
    (root / "book" / "intro.md").write_text(
        f"# Small\n\n{OPTIONS}\n\n" "The eigenvalues $\\lambda_i$ of {cite:t}`wang2022`:\n\n$$r_i \\ge t$$\n"
    )
    figure = nbformat.v4.new_code_cell("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]);")
    figure.metadata["mystnb"] = {"image": {"alt": "A line that rises."}, "figure": {"caption": "Rising, as $x$."}}
    cells = [
        nbformat.v4.new_markdown_cell("# Page\n\n```{exercise}\nShow $r_n = 1$.\n```"),
        nbformat.v4.new_code_cell('profile: str = "quick"  # which runs', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass"),
        nbformat.v4.new_code_cell("print(' '.join(f'layer{n}.conv1' for n in range(40)), 'a' * 200)  # " + 60 * "long "),
        nbformat.v4.new_code_cell("import pandas as pd\npd.DataFrame({'width': [1, 2, 3]})"),
        figure,
    ]
    (root / "notebooks").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, root / "notebooks" / "01_page.ipynb")
    return book.make_book(root).parent


@pytest.fixture(scope="module", params=["small", "real"])
def site(request, browser, tmp_path_factory):
    """The folder of a built book."""
    if request.param == "small":
        return small_book(tmp_path_factory.mktemp("small"))
    folder = REPOSITORY / "_build" / "html"
    if not (folder / "index.html").is_file():
        skip("the book is not built (make book)")
    return folder


@pytest.fixture(scope="module")
def visited(browser, site):
    """Every content page, opened once: [(name, facts gathered in the page, requested URLs, script errors)]."""
    pages = [p for p in sorted(site.rglob("*.html")) if "_static" not in p.parts and p.name != "search.html"]
    assert pages
    tab = browser.new_page()
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    found = []
    for page in pages:
        requests.clear(), errors.clear()
        tab.goto(page.as_uri(), wait_until="load")
        if page.name == "index.html":  # leads on to the first page, at once or a little later
            tab.wait_for_url("**/intro.html", wait_until="load")
        tab.wait_for_timeout(150)
        if tab.locator(".math").count():
            tab.wait_for_selector("mjx-container svg", state="attached", timeout=20_000)
        tab.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
        facts = tab.evaluate(
            """() => ({
              math: document.querySelectorAll('.math').length,
              drawn: document.querySelectorAll('.math mjx-container').length,
              bad: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.textContent),
              images: [...document.querySelectorAll('article img')].map(i => ({alt: i.alt, ok: i.naturalWidth > 0})),
              text: document.querySelector('main').innerText,
              tracebacks: document.querySelectorAll('.output.traceback').length,
            })"""
        )
        found.append((page.relative_to(site).as_posix(), facts, list(requests), list(errors)))
    tab.close()
    return found


def test_no_page_asks_another_host(visited):
    own = ("file", "data", "blob")  # the last two are made by the page itself
    others = {(name, url) for name, _, urls, _ in visited for url in urls if urlsplit(url).scheme not in own}
    assert not others
    assert all(urls for _, _, urls, _ in visited), "the requests were watched"


def test_no_script_fails(visited):
    assert not {name: errors for name, _, _, errors in visited if errors}


def test_mathematics_is_drawn(visited):
    assert sum(facts["math"] for _, facts, _, _ in visited) > 0
    for name, facts, _, _ in visited:
        assert facts["drawn"] == facts["math"], name
        assert not facts["bad"], name


def test_images_load_and_have_alt_text_that_is_no_path(visited):
    for name, facts, _, _ in visited:
        for image in facts["images"]:
            alt = (image["alt"] or "").strip()
            assert image["ok"], f"{name}: image {alt!r} is missing"
            assert len(alt) > 8 and " " in alt, f"{name}: alt text {alt!r}"
            assert not re.search(r"\.(png|svg|jpe?g)$|_images/", alt), f"{name}: alt text {alt!r} is a path"


def test_no_page_shows_an_error(visited):
    for name, facts, _, _ in visited:
        assert not facts["tracebacks"] and "Traceback (most recent call last)" not in facts["text"], name
        assert "papermill" not in facts["text"] or "Exception encountered" not in facts["text"], name


def test_search_finds_a_word(browser, site):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + f"?q={SEARCHED}")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    assert tab.locator("#search-results li a").count() >= 1
    tab.close()


CUT = """() => [...document.querySelectorAll('article pre')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"""
TORN = """() => [...document.querySelectorAll('article p code .pre, article li code .pre')]
  .filter(e => e.textContent.length < 20 && e.getClientRects().length > 1).map(e => e.textContent)"""


@pytest.mark.parametrize("width", [1280, 390])
def test_no_line_of_code_or_of_a_result_is_cut_off_and_no_option_torn(browser, site, visited, width):
    tab = browser.new_page(viewport={"width": width, "height": 900})
    for name, *_ in visited:
        tab.goto((site / name).as_uri(), wait_until="load")
        if name == "index.html":
            tab.wait_for_url("**/intro.html", wait_until="load")
        assert not tab.evaluate(CUT) and not tab.evaluate(TORN), name
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the window"
    tab.close()


CONTRAST = """() => {
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = rgb => rgb.reduce((sum, v, i) => sum + linear(v) * [.2126, .7152, .0722][i], 0);
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .5) return c.slice(0, 3); }
    return [255, 255, 255]; };
  return [...document.querySelectorAll('article p, article td, article th, article h1, article mjx-container')]
    .filter(e => e.offsetParent && e.textContent.trim())
    .map(e => { const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(ground(e))];
      const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      return {text: e.tagName + ' ' + e.textContent.trim().slice(0, 40), ratio}; })
    .filter(e => e.ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark_mode(browser, site, visited, scheme):
    """Contrast of 4.5 or more between text and ground, the level AA of WCAG."""
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    for name, *_ in visited:
        tab.goto((site / name).as_uri(), wait_until="load")
        if name == "index.html":
            tab.wait_for_url(re.compile(r"\.html"))
        tab.wait_for_selector(f"html[data-theme={scheme}]", state="attached")
        assert not tab.evaluate(CONTRAST), name
    context.close()
