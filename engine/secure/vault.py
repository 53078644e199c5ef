"""What a hospital must not forget of masked sums: one small file of its own, `secure/<slot>.json` in the folder of the run.

It holds the set that the hospital signed in its last round, and, where its key is not derived from the run's seed, a secret that
all masks of the run follow from: without the file nobody can lift them any more, not even with the hospital's key.
"""

import json
import secrets
from pathlib import Path
from typing import Any

from engine.encoding import hexed, read_json, unhexed
from engine.errors import MaskError
from engine.files import read_bytes, whole

FOLDER = "secure"
_MOST = 4096  # bytes of a file


class Vault:
    """The file of one hospital; nothing is written before something must be remembered."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._path = folder / f"{slot:04d}.json"

    def secret(self) -> bytes:
        """32 bytes, drawn when they are first asked for.

        Raises:
            MaskError: the file is damaged, or cannot be written.
        """
        known = self._read()
        if "secret" not in known:
            known = {**known, "secret": hexed(secrets.token_bytes(32))}
            self._write(known)
        return unhexed(known["secret"])

    def promise(self, round: int, members: tuple[int, ...]) -> None:
        """Remembers, durably, that these are in the sum of a round.

        Raises:
            MaskError: others were in an earlier answer for this round, or a later round was signed; the file is damaged.
        """
        known, mine = self._read(), [round, list(members)]
        signed = known.get("signed", [0, []])
        if signed == mine:
            return
        if signed[0] >= round:
            raise MaskError(
                f"this hospital has signed a sum over hospitals {', '.join(map(str, signed[1]))} in round {signed[0]}, and signs no other "
                f"one for round {round}: the difference of two sums would tell a single update"
            )
        self._write({**known, "signed": mine})

    def _read(self) -> dict[str, Any]:
        try:
            known = read_json(read_bytes(self._path, _MOST).decode())
            if not isinstance(known, dict) or len(unhexed(known.get("secret", "0x"))) not in (0, 32):
                raise ValueError("no such secret")
            round, members = known.get("signed", [0, []])
            if type(round) is not int or not all(type(slot) is int for slot in members):
                raise ValueError("no such set")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise MaskError(f"{self._path}: cannot be read ({error}); it holds what this hospital has signed") from None
        return known

    def _write(self, known: dict[str, Any]) -> None:
        try:
            self._path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise MaskError(f"{self._path.parent}: cannot be made ({error.strerror}).") from None
        with whole(self._path, durable=True, mode=0o600, error=MaskError) as part:
            part.write_text(json.dumps(known), encoding="utf-8")
