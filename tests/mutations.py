"""JSON with seeded damage of every kind, and the two allowed outcomes of reading it: a value, or an InputError of one line."""

from __future__ import annotations

import copy
import json
import random

from unet4d.errors import InputError

DEEP = json.loads("[" * 60 + "]" * 60)
VALUES = [
    None, True, False, 0, -1, 1, 7, 255, 256, 2**31, 2**63, 10**25, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"),
    "", " ", ".", "..", "/", "0", "1", "a" * 5000, "a/" * 5000 + "b", "a\0b", "a\nb", "\x1b[31m", "\u202e", "\ud800", "=1+1",
    "\u0661", "9" * 5000, [], [0], [None], ["a", "a"], [[]], {}, {"0": None}, {"": ""}, {"0": "a.nii", "00": "b.nii"},
    {"9" * 5000: "a.nii"}, DEEP, {"case": "a1", "image": "images/a1.nii.gz", "label": "labels/a1.nii.gz"}, list(range(1000)),
]  # fmt: skip
KEYS = [
    "",
    "case",
    "image",
    "label",
    "0",
    "1",
    "training",
    "modality",
    "file_ending",
    "numTraining",
    "x" * 5000,
    "\ud800",
    "__class__",
]


def places(value, path=()):
    """Yield every place in a nested value, as keys and indices."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def mutated(entry, rng: random.Random):
    """Return the entry with a value replaced, removed, doubled, moved or renamed at a random place, up to three times."""
    entry = copy.deepcopy(entry)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(places(entry)))
        if not path:
            if rng.random() < 0.05:
                return copy.deepcopy(rng.choice(VALUES))
            continue
        outer = entry
        for key in path[:-1]:
            outer = outer[key]
        act = rng.randrange(5)
        if act == 0:
            del outer[path[-1]]
        elif act == 1 and isinstance(outer, list):
            outer.append(copy.deepcopy(outer[path[-1]]))
        elif act == 1:
            outer[rng.choice(KEYS)] = outer.pop(path[-1])
        elif act == 2 and isinstance(outer, dict):
            outer[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
        else:
            outer[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    return entry


def damaged(text: str, rng: random.Random) -> bytes:
    """Return the text as bytes with some cut out, put in or changed."""
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        junk = rng.choice(
            [b"", b"\0", b"\xff", b'"', b"{", b"[", b"NaN", b"1e999", b"9" * 5000, b"\\ud800", b"\xef\xbb\xbf", b","]
        )
        data[at : at + rng.randint(0, 8)] = junk
    return bytes(data)


def outcome(read, path) -> str:
    """Return the refusal of a dataset, "" where it is accepted; anything but an InputError of one line in moderate length fails."""
    try:
        read(path)
    except InputError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 3000, message[:300]
        return message
    return ""
