"""Check that the parts of a run that was loaded from a file belong together."""

from ..errors import ResultError
from ..storage import told
from ..tokens import check_layout
from .run import Run


def check_run(run: Run) -> None:
    """Refuse a run whose parts do not belong together.

    **Raises:** `ResultError` or `LayoutError` naming the field.
    """
    check_layout(run.layout)
    batch = run.layout.batch
    texts = [run.text] if isinstance(run.text, str) else run.text
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise ResultError(f"text: {told(run.text)}, where there should be an answer")
    if run.ids.ndim != 2 or len(run.ids) != batch or run.ids.is_floating_point():
        raise ResultError(f"ids: a tensor {tuple(run.ids.shape)}, of {batch} samples")
    if run.logits.ndim != 3 or len(run.logits) != batch:
        raise ResultError(f"logits: a tensor {tuple(run.logits.shape)}, of {batch} samples")
    for name, record in run.records.items():
        sizes = dict(zip(record.axes, record.values.shape, strict=True))
        if any(len(labels) != sizes[axis] for axis, labels in record.coords.items()):
            raise ResultError(f"records: {name} has {record}, and labels of another number")
