"""Over TCP a disk is served to those alone who show a certificate of the same authority."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.errors import StorageError

from .tools import need, run

Serve = Callable[..., br.Export]


def certify(folder: Path, name: str, authority: Path) -> None:
    """A key and a certificate for localhost, of an authority that is made when it is not there."""
    if not (authority / "ca-key.pem").exists():
        authority.mkdir(exist_ok=True)
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", authority / "ca-key.pem", "-out", authority / "ca-cert.pem")  # fmt: skip
    folder.mkdir(exist_ok=True)
    if folder != authority:
        shutil.copy(authority / "ca-cert.pem", folder)
    request, options = folder / f"{name}.csr", folder / f"{name}.ext"
    options.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nkeyUsage=digitalSignature,keyEncipherment\n"
                       "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n")  # fmt: skip
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout",
        folder / f"{name}-key.pem", "-out", request)  # fmt: skip
    run("openssl", "x509", "-req", "-in", request, "-CA", authority / "ca-cert.pem", "-CAkey",
        authority / "ca-key.pem", "-CAcreateserial", "-days", "2", "-extfile", options, "-out",
        folder / f"{name}-cert.pem")  # fmt: skip


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reads(uri: str, certificates: Path | None) -> bool:
    """Whether a client gets through to the disk."""
    full = uri if certificates is None else f"{uri}/?tls-certificates={certificates}"
    return subprocess.run(["nbdinfo", "--size", full], capture_output=True, timeout=60).returncode == 0


def test_a_disk_is_served_over_tls_to_clients_of_the_same_authority_only(
    image: Path, tmp_path: Path, serve: Serve, port: int
) -> None:
    need("openssl", "nbdinfo", "nbdcopy")
    server, client, foreign = tmp_path / "server", tmp_path / "client", tmp_path / "foreign"
    certify(server, "server", tmp_path / "authority")
    certify(client, "client", tmp_path / "authority")
    certify(foreign, "client", tmp_path / "another")
    with pytest.raises(StorageError, match="certificate"):
        serve(image, tcp=f"localhost:{port}", tls=tmp_path / "client")  # no server's certificate there
    served = serve(image, tcp=f"localhost:{port}", tls=server)
    assert served.uri == f"nbds://localhost:{port}"
    assert reads(served.uri, client)
    assert not reads(served.uri, foreign)
    assert not reads(served.uri, None)
    assert not reads(served.uri.replace("nbds:", "nbd:"), None)
    data = tmp_path / "data"
    data.write_bytes(b"x" * (1 << 20) + bytes(image.stat().st_size - (1 << 20)))
    run("nbdcopy", data, f"{served.uri}/?tls-certificates={client}")
    served.close()
    assert image.read_bytes() == data.read_bytes()
