"""Tests of rules: which series match, why others do not, and what is no file of rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet4d.errors import InputError
from unet4d.inference.orthanc.client import SeriesInfo
from unet4d.inference.orthanc.rules import Rule, choose_rule, read_rules

TAGS = {"Modality": "MR", "SeriesDescription": "cine_SAX_3", "ProtocolName": "heart", "StationName": "MR1"}
ORIGIN = {"SopClassUid": "1.2.840.10008.5.1.4.1.1.4", "RemoteAET": "SCANNER", "CalledAET": "UNET4D"}
ROOT = Path(__file__).parents[3]


def chosen(rule: Rule, tags=TAGS, origin=ORIGIN) -> Rule | str:
    return choose_rule([rule], SeriesInfo("s", "t", tags, ("i",), "", True), lambda name: origin)


def rule(**conditions: object) -> Rule:
    return Rule("r", (Path("run"),), **conditions)


@pytest.mark.parametrize(
    "conditions",
    [
        {}, {"description": "(?i)sax"}, {"protocol": "^heart$"}, {"remote_aet": "SCAN.*"}, {"called_aet": "UNET4D"},
        {"tags": {"StationName": "MR[12]"}}, {"modality": None}, {"description": "cine", "remote_aet": "SCANNER|OTHER"},
    ],
)  # fmt: skip
def test_a_rule_matches_where_all_that_it_names_holds(conditions):
    assert isinstance(chosen(rule(**conditions)), Rule)


@pytest.mark.parametrize(
    ("conditions", "why"),
    [
        ({"modality": "CT"}, "Modality is not CT"),
        ({"description": "sax"}, "SeriesDescription does not match 'sax'"),
        ({"protocol": "^ear"}, "ProtocolName"),
        ({"remote_aet": "SCAN"}, "RemoteAET"),
        ({"called_aet": "ORTHANC"}, "CalledAET"),
        ({"tags": {"StationName": "^1"}}, "StationName"),
        ({"tags": {"BodyPartExamined": "HEART"}}, "BodyPartExamined"),
    ],
)
def test_a_reason_names_the_condition_and_no_value(conditions, why):
    found = chosen(rule(**conditions))
    assert f"r: {why}" in found
    assert "cine_SAX_3" not in found


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        ("7", "capture"),
        ("7.4", "capture"),
        ("66.4", "segmentation"),
        ("88.34", "report"),
        ("11.1", "presentation"),
        ("104.1", "document"),
    ],
)
def test_objects_without_images_of_a_scanner_match_no_rule(sop_class, kind):
    origin = {**ORIGIN, "SopClassUid": f"1.2.840.10008.5.1.4.1.1.{sop_class}"}
    assert kind in chosen(rule(modality=None), origin=origin)


def test_the_first_of_several_rules_is_taken():
    first, second = rule(description="x"), Rule("second", ())
    info = SeriesInfo("s", "t", TAGS, ("i",), "", True)
    assert choose_rule([first, second, Rule("third", ())], info, lambda name: ORIGIN) is second


def test_a_file_gives_rules_with_models_beside_it(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text(
        "rules:\n- {name: a, model: run, description: sax}\n- {model: [x, /y], modality: null, join: study}\n"
        "- {tags: {StationName: MR1}}\n"
    )
    first, second, third = read_rules(file, [Path("given")])
    assert first == Rule("a", (tmp_path / "run",), description="sax")
    assert (second.name, second.models, second.modality, second.join) == (
        "rule 2",
        (tmp_path / "x", Path("/y")),
        None,
        "study",
    )
    assert (third.models, third.tags, third.modality) == ((Path("given"),), {"StationName": "MR1"}, "MR")


def test_without_a_file_every_mr_series_is_taken():
    [only] = read_rules(None, [Path("run")])
    assert (only.modality, only.description, only.models) == ("MR", None, (Path("run"),))
    with pytest.raises(InputError, match="neither"):
        read_rules(None, [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "rules:"),
        ("- a", "rules:"),
        ("rules: []", "rules:"),
        ("rules: {a: 1}", "rules:"),
        ("rules: [1]", "rule 1"),
        ("rules: [{model: r, descripton: x}]", "'descripton'"),
        ("rules: [{model: r, description: '('}]", "regular expression"),
        ("rules: [{model: r, tags: {StationName: '['}}]", "regular expression"),
        ("rules: [{model: r, description: 3}]", "texts"),
        ("rules: [{model: r, tags: [a]}]", "texts"),
        ("rules: [{model: 3}]", "texts"),
        ("rules: [{description: x}]", "no model"),
        ("rules: [{model: r, join: patient}]", "series or study"),
        ("rules: [{model: r, name: a}, {model: r, name: a}]", "a name of its own"),
        ("rules: [{model: r, join: study}, {model: r, join: study}]", "at most one"),
        ("rules: [{model: r, name: *x}]", "alias|YAML"),
        ("rules: [", "YAML"),
    ],
)
def test_what_is_no_file_of_rules_is_one_line(tmp_path, text, why):
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=why) as error:
        read_rules(file, [])
    assert "rules.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_rules_that_are_shipped_are_read():
    [only] = read_rules(ROOT / "deploy" / "rules.yaml", [])
    assert isinstance(
        chosen(Rule("r", (), description=only.description), {**TAGS, "SeriesDescription": "cine SAX stack"}), Rule
    )
