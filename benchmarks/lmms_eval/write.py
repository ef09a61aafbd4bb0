"""The toy benchmark as tasks of lmms-eval: `python benchmarks/lmms_eval/write.py FOLDER`.

Needs the package datasets. Afterwards, in an environment with lmms-eval and vsink_interp:

    python -m lmms_eval eval --model vsink --model_args pretrained=toy,graph=var \\
        --include_path FOLDER --tasks vsink_toy_pope --batch_size 16 --output_path results
"""

import sys
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Image, List, Value

from vsink_interp.evaluation import toy_benchmark as toy

HERE = Path(__file__).parent
TEXT = Value("string")


def write(folder: Path, scenes: int) -> None:
    """Write tasks and data: a parquet file, and two folders in the form of `save_to_disk`."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "utils.py").write_text((HERE / "utils.py").read_text())
    for path in HERE.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text().replace("FOLDER", str(folder)))
    shown = toy.scenes(scenes)
    asked = [
        {"question_id": one.id, "image": one.image, "question": one.prompt, "answer": one.truth}
        for one in toy.pope(shown).questions
    ]
    fields = {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT}
    questions = Dataset.from_list(asked, features=Features(fields))
    questions.to_parquet(folder / "pope.parquet")
    DatasetDict({"test": questions}).save_to_disk(folder / "choice")
    pairs = {}
    for one in toy.mme(shown).questions:
        pairs.setdefault((one.split, one.about), []).append(one)
    rows = [
        {
            "image": pair[0].image,
            "questions": [one.prompt for one in pair],
            "answers": [one.truth for one in pair],
        }
        for pair in pairs.values()
    ]
    fields = {"image": Image(), "questions": List(TEXT), "answers": List(TEXT)}
    rounds = Dataset.from_list(rows, features=Features(fields))
    DatasetDict({"test": rounds}).save_to_disk(folder / "rounds")


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8)
