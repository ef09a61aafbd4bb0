"""CHAIR by hand."""

import pytest

from vsink_interp import InputError
from vsink_interp.metrics import ObjectWords, score_chair
from vsink_interp.metrics.chair import singular

COCO = ObjectWords.coco()


def test_the_vocabulary_is_coco_s():
    assert len(COCO.words) == 80
    assert {"person", "tv", "hair drier", "teddy bear"} <= set(COCO.words)
    claimed = [word for words in COCO.words.values() for word in words]
    assert len(claimed) == len(set(claimed)), "a word means one object"
    assert not set(claimed) & set(COCO.words)


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Two men ride bicycles.", ["person", "bicycle"]),
        ("A hot dog on a plate", ["hot dog"]),  # no dog
        ("a dog and two hot dogs", ["dog", "hot dog"]),
        ("A baby elephant beside its mother", ["elephant"]),  # no person
        ("a baby in a crib", ["person"]),
        ("A passenger jet on the runway", ["airplane"]),
        ("a passenger waits", ["person"]),
        ("The toilet seat is up", ["toilet"]),  # no chair
        ("wine glasses and a bow tie", ["wine glass", "tie"]),
        ("People playing baseball near home plate", ["person", "sports ball"]),
        ("Traffic lights over buses", ["traffic light", "bus"]),
        ("a pair of scissors, some knives", ["scissors", "knife"]),
        ("a glass building", []),
        ("", []),
    ],
)
def test_mentions(caption, objects):
    assert [name for _, name in COCO.mentions(caption)] == objects


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("dogs", "dog"), ("benches", "bench"), ("buses", "bus"), ("puppies", "puppy"),
        ("glass", "glass"), ("bus", "bus"), ("couches", "couch"), ("boxes", "box"),
        ("horses", "horse"), ("tie", "tie"), ("ties", "tie"), ("skis", "skis"),
    ],
)  # fmt: skip
def test_singular(many, one):
    assert singular(many) == one


def test_scores_by_hand():
    """Mentions: dog dog cat | car; of these cat and car are not there."""
    captions = ["A dog, another dog and a cat", "A car", "Grass"]
    truths = [{"dog", "person"}, {"bus"}, {"cow"}]
    found = score_chair(captions, truths, COCO)
    assert found.instance == 2 / 4
    assert found.sentence == 2 / 3
    assert found.recall == 1 / 4
    assert found.invented == ((("cat", "cat"),), (("car", "car"),), ())


def test_reference_captions_count_as_truth():
    truth = COCO.objects(["A man with a phone.", "Somebody on a couch"])
    assert truth == {"person", "cell phone", "couch"}


def test_a_list_of_one_s_own(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("person, human, chap\ncell phone, blower\n\n")
    words = ObjectWords.read(path)
    assert words.objects(["Two chaps with blowers"]) == {"person", "cell phone"}
    with pytest.raises(InputError, match="no list of synonyms"):
        ObjectWords.read(tmp_path / "none.txt")


def test_bad_input():
    with pytest.raises(InputError, match="lacks these objects: unicorn"):
        score_chair(["a dog"], [{"unicorn"}], COCO)
    with pytest.raises(InputError, match="one each"):
        score_chair([], [], COCO)
