"""Scripted endpoints that speak TLS: OpenSSL's server side between memory buffers, on a real connection."""
from __future__ import annotations

import asyncio
import socket
import ssl

from fakes import Place, Talk
from net.rig import Endpoint, Peer, soon
from upstream.h2place import H2Talk


class Sealed(Peer):
    """What TLS puts between a talk and its socket."""

    tls: ssl.SSLObject

    async def shake(self, context: ssl.SSLContext, piece: int = 1 << 20, first: bytes = b"") -> None:
        """The handshake, our bytes in pieces; `first` is what was read of it already. Raises `ssl.SSLError` after its alert has gone out."""
        self.piece = piece
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.incoming.write(first)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, True)
        try:
            while True:
                try:
                    self.tls.do_handshake()
                    return
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._pull()
        finally:
            await self._flush()

    async def _flush(self) -> None:
        data = self.outgoing.read()
        for at in range(0, len(data), self.piece):
            await soon(self.loop.sock_sendall(self.sock, data[at:at + self.piece]))

    async def _pull(self) -> None:
        data = await soon(self.loop.sock_recv(self.sock, 1 << 16))
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self._flush()

    async def pull(self) -> bytes:
        """Some bytes; none at the end."""
        while True:
            try:
                return self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._pull()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError:
                return b""

    async def bye(self) -> None:
        """close_notify."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self._flush()


class TlsTalk(Sealed, Talk):
    async def more(self) -> bool:
        piece = await self.pull()
        self.buffer += piece
        return bool(piece)


class H2TlsTalk(Sealed, H2Talk):
    pass


async def _accept(place: Place) -> socket.socket:
    assert isinstance(place, Endpoint)
    sock, _ = await soon(asyncio.get_running_loop().sock_accept(place.sock))
    return sock


async def tls_accepted(place: Place, context: ssl.SSLContext, piece: int = 1 << 20) -> TlsTalk:
    talk = TlsTalk(await _accept(place))
    place.accepted.append(talk)  # type: ignore[union-attr]
    await talk.shake(context, piece)
    return talk


async def h2_tls_accepted(place: Place, context: ssl.SSLContext, piece: int = 1 << 20) -> H2TlsTalk:
    talk = H2TlsTalk(await _accept(place))
    place.accepted.append(talk)  # type: ignore[union-attr]
    await talk.shake(context, piece)
    await talk.say()
    return talk


def server_context(cert: str, key: str, *alpn: str, client_ca: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
