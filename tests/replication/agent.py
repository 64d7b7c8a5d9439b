"""A stand-in for qemu-ga: speaks its protocol, and freezes nothing. Never the real one: it would freeze this host."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any


class FakeAgent:
    """Listens until closed. `told` is every command, `frozen` whether the guest would be at rest."""

    def __init__(
        self,
        path: Path,
        *,
        fails: str = "",
        silent: str = "",
        thaws_by_itself: bool = False,
        freezes_at: threading.Event | None = None,
    ) -> None:
        self.told: list[str] = []
        self.frozen = False
        self._fails, self._silent, self._thaws = fails, silent, thaws_by_itself
        self._freezes_at = freezes_at  # the guest is busy until then
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeAgent:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            with link, link.makefile("rb") as lines, contextlib.suppress(OSError):
                link.sendall(b'{"return": "left over from another client"}\n')
                for line in lines:
                    request = json.loads(line.lstrip(b"\xff"))
                    answer = self._answer(request)
                    if answer is not None:
                        link.sendall(answer)

    def _answer(self, request: dict[str, Any]) -> bytes | None:
        command = request["execute"]
        if command == "guest-sync-delimited":
            return b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n"
        self.told.append(command)
        if command == self._silent:
            return None
        if command == self._fails:
            return b'{"error": {"class": "GenericError", "desc": "the guest says no"}}\n'
        if command == "guest-fsfreeze-freeze":
            if self._freezes_at is not None:
                self._freezes_at.wait(60)
            self.frozen = not self._thaws
            return b'{"return": 2}\n'
        was, self.frozen = self.frozen, False
        return b'{"return": 2}\n' if was else b'{"return": 0}\n'
