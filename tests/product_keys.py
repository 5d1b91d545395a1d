"""Keys, and who may use them, in histories of the whole product."""

import json
from collections.abc import Collection

from tests.passing_days import let_days_pass
from tests.product_core import DEFAULT, DENIED, DONE, NOT_FOUND, Key, pick
from tests.product_snapshots import ProductSnapshots
from tests.product_stage import KMS_KEYS, USER, Done

WINDOW = ("--pending-window-in-days", "7", "--yes")


class ProductKeys(ProductSnapshots):
    def key(self, which: int) -> Key:
        return self.keys[KMS_KEYS[which % len(KMS_KEYS)]]

    def of_key(self, key: Key, *words: str, codes: Collection[int] = (DONE,)) -> Done:
        return self.do("--json", "kms", words[0], "--key-id", key.arn, *words[1:], codes=codes)

    def unless(self, key: Key, *states: str) -> Collection[int]:
        if key.state == "Gone":
            return [NOT_FOUND]
        return [DENIED] if key.state in states else [DONE]

    def disable(self, which: int) -> None:
        key = self.key(which)
        if self.of_key(key, "disable-key", codes=self.unless(key, "Pending")).code == DONE:
            key.state = "Disabled"

    def enable(self, which: int) -> None:
        key = self.key(which)
        if self.of_key(key, "enable-key", codes=self.unless(key, "Pending")).code == DONE:
            key.state = "Enabled"

    def rotate(self, which: int) -> None:
        key = self.key(which)
        codes = {*self.unless(key, "Pending", "Disabled")}
        self.of_key(key, "rotate-key-on-demand", codes=codes)

    def schedule(self, which: int) -> None:
        key = self.key(which)
        codes = self.unless(key, "Pending")
        if self.of_key(key, "schedule-key-deletion", *WINDOW, codes=codes).code == DONE:
            key.state = "Pending"

    def cancel(self, which: int) -> None:
        key = self.key(which)
        codes = self.unless(key, "Enabled", "Disabled")
        if self.of_key(key, "cancel-key-deletion", codes=codes).code == DONE:
            key.state = "Disabled"

    def days(self, count: int) -> None:
        self.history.append(f"{count} days")
        let_days_pass(self.stage.command.home, count)
        for key in self.keys.values():
            if key.state == "Pending" and count > 7:
                key.state = "Gone"
                key.grant = None

    def permit(self, which: int) -> None:
        """A grant for the user, or none any more."""
        key = self.key(which)
        if key.grant is not None:
            self.of_key(key, "revoke-grant", "--grant-id", key.grant, codes=self.unless(key))
            key.grant = None
            return
        done = self.of_key(
            key,
            *("create-grant", "--grantee-principal", USER, "--operations", "Decrypt"),
            codes=self.unless(key, "Pending", "Disabled"),
        )
        if done.code == DONE:
            key.grant = json.loads(done.out)["GrantId"]

    def deny(self, which: int, is_denied: bool) -> None:
        """A key policy that takes from the user what a grant gives."""
        key = self.key(which)
        root = {"AWS": "arn:aws:iam::000000000000:root"}
        statements = [{"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}]
        if is_denied:
            statements.append(
                {
                    "Effect": "Deny",
                    "Principal": {"AWS": USER},
                    "Action": "kms:Decrypt",
                    "Resource": "*",
                }
            )
        policy = self.stage.root / "key-policy"
        policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))
        done = self.of_key(
            key,
            *("put-key-policy", "--policy-name", "default", "--policy", f"file://{policy}"),
            codes=self.unless(key),
        )
        if done.code == DONE:
            key.is_denied = is_denied

    def user_may(self, under: str) -> bool:
        if under not in KMS_KEYS:
            return True
        key = self.keys[under]
        return key.is_usable and key.grant is not None and not key.is_denied

    def read_as_user(self, which: int) -> None:
        volume = pick([each for each in self.volumes if not each.is_mounted], which)
        if volume is None:
            return
        done = self.do(
            *("--profile", "alice", "volume", "export", "--yes", volume.name, self.stage.out),
            *self.given(volume.under),
            codes=self.opening(volume, self.user_may),
        )
        self.check_export(done, volume.image, volume.name)
        if done.code == DONE:
            volume.source, volume.is_lazy = None, False
        if volume.source is None:
            self.check_audit(volume.under, "volume", volume.name, done, who="user/alice")

    def export_as_user(self, which: int) -> None:
        snapshot = pick(self.snapshots, which)
        if snapshot is None:
            return
        done = self.do(
            *("--profile", "alice", "snapshot", "export", "--yes", snapshot.name, self.stage.out),
            *self.given(snapshot.under),
            codes=[DONE] if self.user_may(snapshot.under) else [DENIED],
        )
        self.check_export(done, snapshot.image, snapshot.name)
        self.check_audit(snapshot.under, "snapshot", snapshot.name, done, who="user/alice")

    def set_by_default(self, is_on: bool) -> None:
        self.do("settings", "set", "encryption-by-default", "on" if is_on else "off")
        self.is_by_default = is_on

    def set_default_key(self, name: str) -> None:
        value = "none" if name == DEFAULT else self.keys[name].arn
        if self.do("settings", "set", "default-kms-key", value, codes=self.making(name)).code:
            return
        self.default = name
