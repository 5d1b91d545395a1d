"""Where the credentials of a store come from, for as long as a process may live."""

from datetime import timedelta
from pathlib import Path

import pytest

from volcrypt.errors import ConfigurationError
from volcrypt.operations import store_places


def write_credentials(path: Path, secret: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = KEY\naws_secret_access_key = {secret}\n")


def test_credentials_that_were_changed_in_their_file_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    look = store_places.aws_credentials.__wrapped__
    with pytest.raises(ConfigurationError, match="there are no AWS credentials"):
        look()
    write_credentials(path, "first")
    provide = look()
    write_credentials(path, "second")
    assert provide()["secret_access_key"] == "first"  # they are good for some minutes
    monkeypatch.setattr(store_places, "_CREDENTIAL_LIFETIME", timedelta())
    assert provide()["secret_access_key"] == "second"
    path.unlink()
    assert provide()["secret_access_key"] == "second"  # as long as there are no others
