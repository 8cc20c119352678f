"""Which class of a label map is which structure of a heart: by its name, and by roles that say so."""

from __future__ import annotations

import pytest

from unet4d.errors import InputError
from unet4d.metrics.cardiac_structures import (
    LEFT_ATRIUM,
    LEFT_VENTRICLE,
    MYOCARDIUM,
    NO_STRUCTURE,
    RIGHT_ATRIUM,
    RIGHT_MYOCARDIUM,
    RIGHT_VENTRICLE,
    VENTRICLE,
    cavity_within,
    describe_roles,
    find_roles,
    parse_roles,
    structure_of,
)


@pytest.mark.parametrize(
    ("structure", "names"),
    [
        (
            LEFT_VENTRICLE,
            ["left ventricle", "LV", "LV cavity", "left ventricular cavity", "LVcavity", "LeftVentricle", "LVC", "LVBP",
             "heart_ventricle_left", "LV endocardium", "left ventricle blood cavity"],
        ),
        (RIGHT_VENTRICLE, ["Right_Ventricle", "rv", "RV blood pool", "RVC", "heart_ventricle_right"]),
        (VENTRICLE, ["ventricle", "both ventricles", "left and right ventricle"]),
        (LEFT_ATRIUM, ["LA", "left atrium", "left atrial cavity", "heart_atrium_left", "left atrium blood cavity"]),
        (RIGHT_ATRIUM, ["RA", "right atrium", "right atrial blood pool"]),
        (
            MYOCARDIUM,
            ["myocardium", "LV myocardium", "myo", "LVmyo", "LV-Myo", "LVM", "MLV", "left ventricular myocardium", "heart muscle",
             "heart_myocardium", "left ventricular wall", "myocardium of the left ventricle"],
        ),
        (RIGHT_MYOCARDIUM, ["RV myocardium", "RVM", "right ventricular wall"]),
        (
            None,
            ["", "liver", "aorta", "airway", "airway wall", "lateral ventricle", "third ventricle", "3rd ventricle", "left lung",
             "left kidney", "myocardial scar", "ventricular septum", "atrial appendage", "left", "cavity", "class 1", "muscle",
             "wall", "atrium", "left atrial wall", "LA myocardium", "LA LV"],
        ),
    ],
)  # fmt: skip
def test_a_name_means_a_structure_or_none(structure: str | None, names: list[str]):
    assert {name: structure_of(name) for name in names} == dict.fromkeys(names, structure)


def test_the_names_of_nnunets_acdc_are_understood():
    assert find_roles(["RV", "MLV", "LVC"]) == {"RV": RIGHT_VENTRICLE, "MLV": MYOCARDIUM, "LVC": LEFT_VENTRICLE}


def test_roles_that_are_given_come_before_names():
    names = ["a", "LV", "myo", "RV"]
    given = {"a": LEFT_VENTRICLE, "RV": NO_STRUCTURE}
    assert find_roles(names, given) == {"a": LEFT_VENTRICLE, "myo": MYOCARDIUM}, "LV is taken, RV is none"
    assert find_roles(["LV", "LV cavity"]) == {"LV": LEFT_VENTRICLE}, "the first is it"


def test_a_myocardium_is_measured_when_its_own_ventricle_is_full():
    roles = find_roles(["right ventricle", "myocardium", "left atrium", "left ventricle", "RV myocardium"])
    assert cavity_within(MYOCARDIUM, roles) == "left ventricle"
    assert cavity_within(RIGHT_MYOCARDIUM, roles) == "right ventricle"
    assert cavity_within(MYOCARDIUM, find_roles(["RV", "myo", "LA"])) is None


def test_roles_are_described():
    names = ["RV", "myocardium", "scar"]
    roles = find_roles(names)
    assert describe_roles(roles, names) == "RV as right ventricle, myocardium; scar as none"
    assert describe_roles({}, ["scar"]) == "scar as none"


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["RV"], r"roles is \['RV'\], expected structures by class"),
        ({"RW": RIGHT_VENTRICLE}, r"roles names the class 'RW' \(near: RV\), expected some of RV, LV;"),
        ({"background": NO_STRUCTURE}, r"names the class 'background'"),
        ({"RV": "right ventrikel"}, r"has 'right ventrikel' \(near: right ventricle.*\) for RV, expected one of left ventricle,"),
        ({"RV": 1}, r"has 1 for RV, expected one of"),
        ({"RV": ["left ventricle"]}, r"has \['left ventricle'\]"),
        ({"RV": LEFT_VENTRICLE, "LV": LEFT_VENTRICLE}, r"has left ventricle for RV and LV, expected one class"),
    ],
)  # fmt: skip
def test_wrong_roles_are_refused(roles, words: str):
    with pytest.raises(InputError, match=words):
        parse_roles(roles, ["RV", "LV"], "roles")


def test_several_classes_may_be_none():
    assert parse_roles({"RV": NO_STRUCTURE, "LV": NO_STRUCTURE}, ["RV", "LV"], "roles")
