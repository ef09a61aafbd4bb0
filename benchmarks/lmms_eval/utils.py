"""What the toy tasks tell lmms-eval; it loads this file from the folder of the tasks."""

from lmms_eval.tasks.pope.utils import (  # noqa: F401 (the YAML names them)
    pope_aggregate_accuracy,
    pope_aggregate_f1_score,
    pope_aggregate_yes_ratio,
    pope_process_results,
)


def images(doc):
    return [doc["image"].convert("RGB")]


def choice(doc):
    return ["yes", "no"].index(doc["answer"])


def ask_round(doc, previous_output=None, round_idx=0, **_):
    """The text of the first round; later what lmms-eval asks of a round: five values."""
    if not round_idx:
        return doc["questions"][0]
    if round_idx == len(doc["questions"]):
        return None, None, True, previous_output, None
    return images(doc), doc["questions"][round_idx], False, previous_output, None


def both_right(doc, results):
    said = results[0] if isinstance(results[0], list) else results
    return {"both": float([text.strip() for text in said] == list(doc["answers"]))}
