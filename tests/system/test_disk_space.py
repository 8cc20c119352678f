"""Free space on disks: of folders that do not exist yet, too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from unet4d.errors import Unet4DError
from unet4d.system.files import check_disk_space, free_disk_bytes


def test_a_folder_to_come_has_the_space_of_the_nearest_one_above(tmp_path):
    assert free_disk_bytes(tmp_path / "a" / "b") == pytest.approx(free_disk_bytes(tmp_path), rel=0.2)


def test_too_little_space_names_the_folder_both_sizes_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    check_disk_space(tmp_path, 10**9, "tables", "choose another folder")
    with pytest.raises(Unet4DError, match=r"needs 2 GB for tables, and 1 GB are free.*choose another folder"):
        check_disk_space(tmp_path, 2e9, "tables", "choose another folder")
