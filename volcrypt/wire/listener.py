"""Where a daemon listens: addresses, Unix sockets, descriptors of systemd, and when TLS is needed.

Plain HTTP carries plaintext keys in the clear: it is for loopback addresses and Unix sockets, which
nobody else can listen to; anything else needs a certificate.
"""

import errno
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.errors import ConfigurationError, InvalidArgumentError

DEFAULT_PORT: Final = 8599
DEFAULT_LISTEN: Final = f"127.0.0.1:{DEFAULT_PORT}"
BACKLOG: Final = 1024
HOME_SOCKET_NAME: Final = "volcrypt-home"
"""FileDescriptorName= of the socket for the commands of a home."""

_FIRST_PASSED: Final = 3
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket that listens, and the address that clients use."""

    socket: socket.socket
    tls: ssl.SSLContext | None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:8599`, `https://...` or `unix:/path`."""
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{self.socket.getsockname()}"
        host, port = self.socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"http{'s' if self.tls else ''}://{shown}:{port}"


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT`. Raises InvalidArgumentError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else _MAX_PORT + 1
    if not colon or not host or number > _MAX_PORT:
        raise InvalidArgumentError(
            f"{text!r} is no address to listen on", hint="use HOST:PORT or [IPv6]:PORT"
        )
    return host, number


def make_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later with this certificate chain and key (PEM). Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password instead of none: OpenSSL would ask for it at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not usable"
        raise ConfigurationError(
            f"certificate {certificate} and key {key}: {reason}",
            hint="both in PEM, the key without a passphrase",
        ) from error
    return context


def listen_tcp(text: str, tls: ssl.SSLContext | None, *, may_have_tls: bool = True) -> Listener:
    """Raises InvalidArgumentError, also for an address that would need TLS, and ConfigurationError
    when it cannot be had."""
    host, port = parse_address(text)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {text}: {error.strerror}") from error
    family, _, _, _, address = found[0]
    if tls is None and not all(_is_loopback(str(entry[4][0])) for entry in found):
        raise InvalidArgumentError(
            f"{text} is no loopback address, and plain HTTP would carry "
            f"{'keys' if may_have_tls else 'what it serves'} in the clear",
            hint="give --tls-cert and --tls-key, or an address on this host: 127.0.0.1:PORT"
            if may_have_tls
            else "give an address on this host, such as 127.0.0.1:PORT, or the path of a socket",
        )
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ConfigurationError(f"cannot listen on {text}: {error.strerror}") from error
    return Listener(socket=made, tls=tls)


def listen_unix(path: Path, *, mode: int = 0o600) -> Listener:
    """A Unix socket that `mode` lets others reach; one that a killed daemon left is replaced.

    Raises ConfigurationError when somebody listens there, or something else lies there.
    """
    remove_dead_socket(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o777 & ~mode)
    try:
        made.bind(os.fspath(path))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        reason = "the path is too long" if error.errno is None else error.strerror
        raise ConfigurationError(f"cannot listen on {path}: {reason}") from error
    finally:
        os.umask(old)
    return Listener(socket=made, tls=None)


def remove_dead_socket(path: Path) -> None:
    """Raises ConfigurationError when `path` is something else, or somebody listens on it."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(kind):
        raise ConfigurationError(f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                raise ConfigurationError(f"cannot use {path}: {error.strerror}") from error
        else:
            raise ConfigurationError(f"somebody listens on {path} already")
    path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """The sockets that systemd passes: for HTTP, and the one for the commands of the home, which a
    socket unit names `volcrypt-home`."""

    http: list[Listener]
    home: Listener | None = None


def passed_listeners(
    environment: Mapping[str, str], pid: int, tls: ssl.SSLContext | None
) -> Passed:
    """The sockets that systemd passes (sd_listen_fds(3)); none when it did not start us for them.

    Raises ConfigurationError for one that would need TLS.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return Passed(http=[])
    count = environment.get("LISTEN_FDS", "")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    listeners: list[Listener] = []
    home = None
    for index in range(int(count) if count.isdigit() else 0):
        descriptor = _FIRST_PASSED + index
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
        if passed.family == socket.AF_UNIX:
            listener = Listener(socket=passed, tls=None)
            if names[index : index + 1] == [HOME_SOCKET_NAME]:
                home = listener
            else:
                listeners.append(listener)
            continue
        host, port = passed.getsockname()[:2]
        if tls is None and not _is_loopback(host):
            passed.close()
            raise ConfigurationError(
                f"the socket that systemd passes listens on {host}:{port}, which is no loopback "
                "address",
                hint="without TLS: an address on this host, such as 127.0.0.1:PORT",
            )
        listeners.append(Listener(socket=passed, tls=tls))
    return Passed(http=listeners, home=home)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
