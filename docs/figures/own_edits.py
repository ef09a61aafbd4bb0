"""A probe and an edit of one's own: the page's `to_image` before and after its `Flatten`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from vsink_interp.graph import Layers
from vsink_interp.plot.style import new_figure


@vi.probe("attn.hook_pattern")
def to_image(pattern, site) -> Float[Tensor, "batch head query"]:
    """The attention that each row gives the image."""
    return (pattern * site.keys("image")[:, None, None]).sum(-1)


@dataclass(frozen=True)
class Flatten(vi.Edit):
    """Attention of some rows, spread evenly over what each may see."""

    layers: Layers = ":"
    rows: str = "query generated"
    hook = "attn.hook_pattern"

    @property
    def targets(self):
        """The rows that it changes."""
        return self.rows, False

    def apply(self, value, site):
        """Each row that counts, evenly."""
        flat = (value > 0) / (value > 0).sum(-1, keepdim=True)
        return torch.where(site.queries(self.rows)[:, None, :, None], flat, value)


def draw(lmm):
    """Layer x head, three times."""
    image, prompt = vi.toy.scene(3).image, "describe the image"
    figure = new_figure(9, 2.9)
    panels = figure.subplots(1, 3)
    graphs = {
        "to_image": to_image,
        'Flatten("2:4") | to_image': Flatten("2:4") | to_image,
        'Flatten("2:4", "query") | to_image': Flatten("2:4", "query") | to_image,
    }
    for axes, (name, graph) in zip(panels, graphs.items(), strict=True):
        run = lmm.run(lmm.encode(image, prompt).with_answer("a red circle"), graph=graph)
        rows = run.layout.mask("query generated")[0]
        values = run["to_image"].values[:, 0][..., rows].mean(-1).numpy()
        shown = axes.imshow(values, cmap="YlOrRd", vmin=0, vmax=1, origin="lower", aspect="auto")
        axes.set_title(name, fontsize=9, family="monospace")
        axes.set(xlabel="head", ylabel="layer", xticks=range(lmm.n_heads))
    figure.colorbar(shown, ax=panels, label="share of attention\nthat goes to the image")
    return figure
