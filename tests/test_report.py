"""The page is whole, self-contained, and shows texts as they are."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from zsem.report import Picture, Point, Section, write_page


class Balance(HTMLParser):
    """Complains where tags are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_holds_all_that_it_shows(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    sections = [
        Section(
            title="One",
            text=["less < more & <script>"],
            rows=[{"row": "a", "x": "1"}, {"row": "b", "x": "2"}],
            best=[1],
        ),
        Section(title="Two", pictures=[Picture(image=image, caption="sixteen pixels")]),
    ]
    page = write_page(tmp_path / "new" / "report.html", "A <title>", sections, summary=["said first"]).read_text(
        "utf-8"
    )
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "<script>" not in page
    assert "less &lt; more &amp; &lt;script&gt;" in page
    assert "http" not in page  # nothing is loaded from anywhere
    assert re.search(r'<tr class="best"><td>b</td><td>2</td></tr>', page)
    data = re.search(r"data:image/png;base64,([^\"]+)", page)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1])))), np.asarray(image))


def test_points_cards_code_terms_and_notes(tmp_path):
    section = Section(
        id="one", title="One", points=[Point(text="it <works>", mark="good", link="two"), Point(text="plainly")],
        rows=[{" ": "a", "x": "1\n0 – 2"}], cards=True, code="zsem <x>", terms={"x": "a column"}, notes=["n = 1"],
    )  # fmt: skip
    words = Section(id="two", title="Two", terms={"word": "what it means"})
    page = write_page(tmp_path / "report.html", "Title", [section, words]).read_text("utf-8")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert '<h2 id="one">One</h2>' in page and '<a href="#two">' in page and '<h2 id="two">' in page
    assert re.search(r'<li class="good">\s*<span class="mark">good:</span>\s*it &lt;works&gt;', page)
    assert re.search(r"<li>\s*plainly</li>", page)
    assert '<td data-name="x"><span>1<small>0 – 2</small></span></td>' in page
    assert "<pre>zsem &lt;x&gt;</pre>" in page and '<p class="notes">n = 1</p>' in page
    assert re.search(r'<dl class="columns">\s*<dt>x</dt> <dd>a column</dd>', page)
    assert re.search(r'<dl>\s*<dt id="word">word</dt>', page)
