from __future__ import annotations

from sdforge.core.setting_sections import sections
from sdforge.core.settings import OPTIONS
from tests.api.conftest import Server


def test_the_table_has_every_setting_with_its_value_and_writes_nothing(
    shared_server: Server,
) -> None:
    body = shared_server.client.get("/api/v1/settings").json()
    rows = {row["key"]: row for row in body["settings"]}
    assert list(rows) == list(OPTIONS)
    options = shared_server.client.get("/sdapi/v1/options").json()
    assert {key: row["value"] for key, row in rows.items()} == {key: options[key] for key in rows}
    assert {row["section"] for row in rows.values()} == {one["id"] for one in body["sections"]}
    quality = rows["jpeg_quality"]
    assert (quality["kind"], quality["minimum"], quality["maximum"]) == ("int", 1, 100)
    assert rows["samples_format"]["choices"] == ["png", "jpg", "jpeg", "webp"]
    assert rows["sd_vae"]["choices"][:2] == ["Automatic", "None"]
    # Offered for ticking; empty, as this server has no such file.
    assert (
        rows["forge_additional_modules"]["kind"],
        rows["forge_additional_modules"]["choices"],
    ) == ("tuple", [])
    assert rows["max_queued_jobs"]["locked"]


def test_sections_keep_a1111s_order_and_unknown_ones_come_last() -> None:
    found = sections(["own-things", "vae", "saving-images", "vae"])
    assert [section for _, section, _ in found] == ["saving-images", "vae", "own-things"]
    assert found[-1] == ("Other", "own-things", "Own things")
