"""The page is whole, self-contained, and shows texts as they are."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from zsem.report import Picture, Section, write_page


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
