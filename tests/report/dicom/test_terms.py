"""Coded terms: every code is in the standard's tables, or is marked as one of this package."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.codedict import codes

from tests.datasets.convert import dicom_files as files
from tests.report.dicom.sources import classic, result_of
from unet4d.errors import InputError
from unet4d.metrics.cardiac_structures import MYOCARDIA, VENTRICLES
from unet4d.report.dicom.structured_report import (
    ANY_MEASURE_TERMS,
    EJECTION_FRACTIONS,
    MEASURE_TERMS,
    UNITS,
    measure_term,
)
from unet4d.report.dicom.terms import (
    CODING_SCHEME,
    LESION_TERMS,
    NAME_TERMS,
    STRUCTURE_TERMS,
    find_term,
    read_terms,
)
from unet4d.report.dicom.write import dicom_objects

FORMATS = ("dicom-seg", "dicom-sr")  # pictures have no codes

TABLE = {(scheme, code) for scheme, terms in concepts.items() for found in terms.values() for code in found}
"""Every code of the standard's release that pydicom has."""
UNIT_PARTS = {part for scheme, code in TABLE if scheme == "UCUM" for part in re.split("[/.]", code)}
"""Units of UCUM that stand alone or in a quotient or product of the tables: a term of a product is a unit (UCUM, 7)."""


def coded(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Yield scheme and value of every code in a dataset, at any depth."""
    if "CodeValue" in dataset:
        yield dataset.CodingSchemeDesignator, dataset.CodeValue
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from coded(item)


def test_every_code_of_every_object_is_in_the_tables_or_ours(tmp_path):
    labels = {"background": 0, "left ventricle": 1, "myocardium": 2, "rv": 3, "right atrium": 4, "tumour": 5, "scar": 6}
    label = np.random.default_rng(2).integers(0, 7, (4, 11, 9, 4)).astype(np.uint8)
    result = result_of(tmp_path, classic(files.AFFINE), label, labels=labels)
    found = {code for _, made in dicom_objects("case", result, FORMATS) for code in coded(made)}
    own = {code for scheme, code in found if scheme == CODING_SCHEME}
    assert own == {find_term("scar").type.code}
    units = {code for scheme, code in found if scheme == "UCUM"}
    assert units == {"ml", "g", "%", "1"}
    assert units <= UNIT_PARTS
    elsewhere = {
        ("RFC5646", "en-US"),
        ("UMLS", "C2348792"),
    }  # by highdicom's templates: language, and time point (TID 1502)
    rest = {(scheme, code) for scheme, code in found if scheme not in ("UCUM", CODING_SCHEME)}
    assert rest - TABLE <= elsewhere
    assert len(rest) > 30


def test_structures_are_segmentation_types_and_measures_have_their_own_codes():
    types = {(scheme, keyword) for scheme, keywords in cid_concepts[7151].items() for keyword in keywords}
    keywords = {*STRUCTURE_TERMS.values(), *NAME_TERMS.values(), *LESION_TERMS.values()}
    assert {keyword for keyword in keywords if ("SCT", keyword) not in types} == {
        "LeftVentricleMyocardium"
    }  # CID 12305
    measures = [
        *MEASURE_TERMS.values(),
        *ANY_MEASURE_TERMS.values(),
        *(("LN", one) for one in EJECTION_FRACTIONS.values()),
    ]
    assert len({getattr(getattr(codes, scheme), keyword).value for scheme, keyword in measures}) == len(measures)
    assert {code for code, _ in UNITS.values()} <= UNIT_PARTS
    left, right, any_side = VENTRICLES
    assert measure_term("ef_percent", left, "MR").meaning == "Left ventricular ejection fraction by MR"
    assert measure_term("edv_ml", right, "MR").meaning == "Right Ventricular ED Volume"
    assert [measure_term("edv_ml", any_side, "MR").scheme, measure_term("ef_percent", left, "US").scheme] == [
        CODING_SCHEME
    ] * 2
    assert [measure_term("mass_g", muscle, "MR").meaning for muscle in MYOCARDIA] == ["Left Ventricle Mass", "Mass"]


@pytest.mark.parametrize(
    ("name", "structure", "meaning", "category"),
    [
        ("LVC", "left ventricle", "Left ventricle", "Anatomical Structure"),
        ("Ascending_Aorta", None, "Ascending aorta", "Anatomical Structure"),
        ("TUMOUR", None, "Neoplasm", "Morphologically Abnormal Structure"),
        ("right ventricular myocardium", "right ventricular myocardium", "right ventricular myocardium", "Tissue"),
        ("a\nb\\c" + "x" * 80, None, "a b/c" + "x" * 59, "Tissue"),
    ],
)
def test_a_class_is_known_by_its_structure_or_its_name(name, structure, meaning, category):
    term = find_term(name, structure)
    assert (term.type.meaning, term.category.meaning) == (meaning, category)
    assert (term.type.scheme == CODING_SCHEME) == (category == "Tissue")
    assert len(term.type.code) <= 16


HEAD = "class,code,scheme,meaning,color,category_code,category_scheme,category_meaning\n"


def test_a_table_gives_codes_and_colors(tmp_path):
    path = tmp_path / "terms.csv"
    path.write_text(HEAD + "scar,C1,99LAB,Late enhancement,#ff0000,C2,99LAB,Finding\nvelum,C3,99LAB,Velum,,,,\n")
    result = result_of(tmp_path / "in", classic(files.AFFINE), terms=read_terms(path))
    [(_, made)] = dicom_objects("case", result, ["dicom-seg"])
    scar = made.SegmentSequence[-1]
    assert (scar.SegmentedPropertyTypeCodeSequence[0].CodeValue, scar.SegmentLabel) == ("C1", "scar")
    assert scar.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Finding"
    lightness, a_star, b_star = (value / 65535 for value in scar.RecommendedDisplayCIELabValue)
    assert (round(100 * lightness), round(255 * a_star - 128), round(255 * b_star - 128)) == (53, 80, 67)  # sRGB red
    assert read_terms(path)["velum"].color is None
    other = result_of(tmp_path / "in", [])
    assert other.uid("instance") != result.uid("instance")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("scar,,99LAB,Scar,,,,", "code"),
        ("scar,C1,99LAB,a\x07b,,,,", "meaning"),
        (f"scar,{'1' * 17},99LAB,Scar,,,,", "1 to 16"),
        ("scar,C1,99LAB,Scar,red,,,", "#rrggbb"),
        ("scar,C1,99LAB,Scar,,C2,,", "category_scheme"),
        ("scar,C1,99LAB,Scar,,,,\nscar,C1,99LAB,Scar,,,,", "twice"),
    ],
)
def test_a_faulty_table_is_refused_by_class(tmp_path, rows, words):
    path = tmp_path / "terms.csv"
    path.write_text(f"{HEAD}{rows}\n")
    with pytest.raises(InputError, match=words) as raised:
        read_terms(path)
    assert "scar" in str(raised.value)
