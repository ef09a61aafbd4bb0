"""Token views hold their own script, escape what they show, and refuse what they cannot draw."""

import re

import pytest

import vsink_interp as vi
from vsink_interp import plot


def test_a_view_holds_its_script():
    html = plot.token_strengths(["a", "b"], [0.0, 1.0])._repr_html_()
    assert len(html) > 100_000
    assert "unpkg" not in html
    assert re.search(r'import\s*\{.*?\}\s*from\s*"http', html) is None
    assert html.count("<div") == html.count("</div>")


def test_labels_are_escaped():
    html = plot.token_strengths(["</script><b>", "<image>"], [0.0, 1.0]).html
    assert "<b>" not in html
    assert "&lt;image&gt;" in html
    assert html.count("</script>") == 1


def test_refusals():
    with pytest.raises(vi.InputError, match="2 tokens need as many values; got 1"):
        plot.token_strengths(["a", "b"], [1.0])
    with pytest.raises(vi.InputError, match="leave the image tokens out"):
        plot.token_strengths(["<image>"] * 576, [1.0] * 576)
