"""The whole product against a model: volumes, snapshots, copies, keys, who may use them, kills.

`Product` does what a user does, by the commands of the command line on real engines, and knows what
must come of it: what each volume and snapshot reads, which keys open it, what is refused and with
which exit code, what the audit log says. Things are named by numbers, modulo how many there are, so
that any numbers make a history.
"""

import shutil

from tests.product_core import (
    CUSTOMER,
    DENIED,
    DONE,
    IN_USE,
    OPEN,
    PLAIN,
    SECRET,
    STORES,
    UNSAID,
    USAGE,
    Volume,
    pick,
    shown,
    state_of,
)
from tests.product_keys import ProductKeys
from tests.product_stage import KMS_KEYS, Trouble


class Product(ProductKeys):
    def begin(self) -> None:
        """One volume that is not encrypted, and one that is."""
        self.import_(PLAIN, 1, None)
        self.import_(KMS_KEYS[0], 2, None)

    # ------------------------------------------------------------------------- other keys

    def encrypt(self, which: int, choice: str, keeps: bool, trouble: Trouble | None) -> None:
        volume = pick([each for each in self.volumes if each.under == PLAIN], which)
        if volume is None or choice in {PLAIN, UNSAID}:
            return
        codes = [IN_USE] if volume.is_mounted else self.making(choice)
        words = ("encrypt", volume.name, *self.choice(choice), *["--keep-old"] * keeps)
        done = self.do(*words, codes=codes, trouble=trouble, again_codes=[DONE, USAGE])
        if done.code not in {DONE, USAGE}:
            return
        if keeps:
            self.add(Volume(f"{volume.name}-unencrypted", bytearray(volume.image), PLAIN))
        volume.under, volume.source, volume.is_lazy = choice, None, False

    def encrypt_online(self, which: int, choice: str, trouble: Trouble | None) -> None:
        volume = pick([each for each in self.volumes if each.under == PLAIN], which)
        if volume is None or choice in {PLAIN, UNSAID, CUSTOMER} or volume.is_lazy:
            return
        done = self.do(
            *("encrypt", volume.name, "--online", *self.choice(choice)),
            codes=self.making(choice),
            trouble=trouble,
            again_codes=[DONE, USAGE],
        )
        if done.code in {DONE, USAGE}:
            volume.under = choice

    def rekey(self, which: int, choice: str, trouble: Trouble | None) -> None:
        volume = pick([each for each in self.volumes if each.under in self.keys], which)
        if volume is None or choice in {PLAIN, CUSTOMER} or volume.is_lazy:
            return
        under = volume.under if choice == UNSAID else choice
        codes = set(self.making(under))
        if not volume.is_mounted and not self.is_usable(volume.under):
            codes = {DENIED, *codes} - {DONE}
        before = self.listed("volume")[volume.name]["DataEncryptionKeyId"]
        done = self.do(
            *("rekey", volume.name, *([] if choice == UNSAID else self.choice(choice))),
            codes=codes,
            trouble=trouble,
        )
        if done.code == DONE:
            volume.under = under
            after = self.listed("volume")[volume.name]["DataEncryptionKeyId"]
            assert after != before, f"{volume.name} has its old key\n{self}"

    def back_up_and_restore(self) -> None:
        """Another home from a backup knows the same keys, and its log is whole."""
        backup, home = self.stage.root / "backup", self.stage.root / "restored"
        passphrase = ("--passphrase-file", self.stage.root / "passphrase")
        self.do("backup", backup, *passphrase)
        try:
            self.do("--home", home, "restore", backup, *passphrase)
            for key in self.keys.values():
                words = ("--home", home, "--json", "kms", "describe-key", "--key-id", key.arn)
                done = self.do(*words, codes=self.unless(key))
                assert key.state == "Gone" or f'"{state_of(key)}"' in done.out, f"{done}\n{self}"
            self.do("--home", home, "audit", "verify")
        finally:
            backup.unlink(missing_ok=True)
            shutil.rmtree(home, ignore_errors=True)

    # ------------------------------------------------------------------------- what must hold

    def check(self) -> None:
        """Lists agree, stores and log verify, and no file has what was never to be seen."""
        if len(self.history) == self.checked:
            return
        self.checked = len(self.history)
        volumes = self.listed("volume")
        assert {name: shown(each) for name, each in volumes.items()} == {
            each.name: (
                len(each.image),
                self.arn(each.under),
                each.under != PLAIN,
                "in-use" if each.is_mounted else "available",
            )
            for each in self.volumes
        }, str(self)
        snapshots = self.listed("snapshot")
        assert {
            name: (each["VolumeSize"], each["KmsKeyId"], each["Encrypted"], each["StoreName"])
            for name, each in snapshots.items()
        } == {
            each.name: (len(each.image), self.arn(each.under), each.under != PLAIN, each.store)
            for each in self.snapshots
        }, str(self)
        for store in STORES:
            self.quietly("snapshot", "verify", "--store", store)
        self.quietly("audit", "verify")
        self.check_secrets()

    def check_secrets(self) -> None:
        contents = [
            path.read_bytes()
            for below in ("home", "away")
            for path in self.stage.files(below=below)
        ]
        assert not any(SECRET in each for each in contents), f"plaintext is in a file\n{self}"
        if any(OPEN in each.image for each in self.volumes if each.under == PLAIN):
            assert any(OPEN in each for each in contents), f"the control is blind\n{self}"
        elif not any(OPEN in each.image for each in self.snapshots if each.under == PLAIN):
            volumes = (path.read_bytes() for path in self.stage.files(below="home/volumes"))
            assert not any(OPEN in each for each in volumes), f"old plaintext\n{self}"

    def quietly(self, *arguments: str) -> None:
        done = self.stage.run(*arguments)
        assert done.code == DONE, f"{arguments}: {done.code}\n{done.out}{done.err}\n{self}"

    def arn(self, under: str) -> str | None:
        return self.keys[under].arn if under in self.keys else None

    def check_all(self) -> None:
        """Everything reads what it must, or is refused."""
        for volume in self.volumes:
            self.read_volume(volume)
        for snapshot in self.snapshots:
            self.export_snapshot(snapshot)
        self.check()
