"""Token views hold their own script, escape what they show, and refuse what they cannot draw."""

import json
import re

import pytest
import torch

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


def test_patterns_of_text_tokens(lmm):
    pattern = vi.probes.Pattern("all", layers=3)
    run = lmm.run(vi.toy.scene(0).image, "what color is the <b> circle ?", pattern)
    view = plot.attention_patterns(run, layer=3)
    assert "unpkg" not in view.html
    assert view.html.count("<div") == view.html.count("</div>")
    places = run.layout.mask("prompt & ~image")[0].nonzero().flatten().tolist()
    assert "<b>" not in view.html
    drawn = json.loads(re.search(r'"attention": (\[\[\[.*?\]\]\])', view.html)[1])
    want = run[pattern].values[0, 0][:, places][:, :, places]
    torch.testing.assert_close(torch.tensor(drawn), want)
    with pytest.raises(vi.LayoutError, match="no history token"):
        plot.attention_patterns(run, layer=3, tokens="history")
    with pytest.raises(vi.ResultError, match="not every row"):
        last = lmm.run(vi.toy.scene(0).image, "what is it", vi.probes.Pattern("last", layers=3))
        plot.attention_patterns(last, layer=3)


def test_refusals():
    with pytest.raises(vi.InputError, match="2 tokens need as many values; got 1"):
        plot.token_strengths(["a", "b"], [1.0])
    with pytest.raises(vi.InputError, match="leave the image tokens out"):
        plot.token_strengths(["<image>"] * 576, [1.0] * 576)
