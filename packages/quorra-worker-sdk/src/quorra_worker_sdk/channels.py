"""How the SDK reaches a server: in clear text at `host:port`, and through TLS at `https://host:port`.

Certificates are checked against the roots that come with grpcio, or those of the file in
`GRPC_DEFAULT_SSL_ROOTS_FILE_PATH` (https://grpc.io/docs/guides/auth/), which names an authority of your own.
"""

from urllib.parse import urlsplit

import grpc

TLS_PORT = 443
OPTIONS = [
    # A batch of jobs may be larger than the four MiB that gRPC allows by default; the server has bounds of its own.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC would wait for up to two minutes before it looks for a server that was away; leases are shorter than that.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # How long one attempt to connect may take, where packets are lost; 20 s by default.
    ("grpc.min_reconnect_backoff_ms", 5_000),
]


def open_channel(address: str) -> grpc.Channel:
    """Return a channel for threads; it connects when it is first used.

    Raises:
        ValueError: The address cannot be read.
    """
    target, is_secure = target_of(address)
    if is_secure:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=OPTIONS)
    return grpc.insecure_channel(target, options=OPTIONS)


def open_aio_channel(address: str) -> grpc.aio.Channel:
    """Return a channel for an event loop; it connects when it is first used.

    Raises:
        ValueError: The address cannot be read.
    """
    target, is_secure = target_of(address)
    if is_secure:
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=OPTIONS)
    return grpc.aio.insecure_channel(target, options=OPTIONS)


def target_of(address: str) -> tuple[str, bool]:
    """Return what gRPC calls an address, and whether it is reached through TLS.

    Raises:
        ValueError: The address cannot be read; the message says how it is written.
    """
    if not address.startswith(("http://", "https://")):
        return address, False
    url = urlsplit(address)
    is_secure = url.scheme == "https"
    if not url.netloc or url.path.strip("/") or url.query or (not is_secure and url.port is None):
        raise ValueError(
            f"the server's address {address!r} cannot be read: use host:port, or https://host:port for TLS"
        )
    return (url.netloc if url.port else f"{url.netloc}:{TLS_PORT}"), is_secure
