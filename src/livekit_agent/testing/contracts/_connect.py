"""Group A: connect and authenticate."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream

from ...protocol import TokenError, UpgradeRequested, verify_token
from ._lab import Lab, Worker, poll
from ._verdicts import Broken, Case, Differs

__all__ = ["CASES"]

_ATTEMPTS = 10
"""More connects than this within a few seconds are a fast loop; a jittered backoff may begin with a handful."""


def token_of(request: UpgradeRequested) -> str:
    """The bearer token of an upgrade request."""
    value = request.headers.get("authorization", "")
    if not value.startswith("Bearer "):
        raise Broken("the upgrade request has no Authorization: Bearer header")
    return value.removeprefix("Bearer ")


def _part(token: str, index: int) -> dict[str, Any]:
    text = token.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _no_secret(worker: Worker, *tokens: str) -> None:
    for secret in (worker.secret, *tokens):
        if secret in worker.output:
            raise Broken("its output shows the token or the secret")


async def plain_url(lab: Lab) -> str:
    async with lab.worker(scheme="http") as worker:
        link = await worker.connection()
        request = await link.asked()
        line = link.head.split(b"\r\n", 1)[0].decode("latin-1")
        if not line.startswith("GET /agent") or not line.endswith("HTTP/1.1") or request.path != "/agent":
            raise Broken(f"the request line is {line!r}")
        return line


async def base_path(lab: Lab) -> str:
    async with _authority() as (ca, env):
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("localhost").configure_cert(server)
        async with lab.worker(scheme="https", host="localhost", path="/base/", env=env, tls=server) as worker:
            try:
                link = await worker.connection()
            except Broken as exc:
                if worker.tls_failures:
                    raise Broken("it does not trust the CA in SSL_CERT_FILE and NODE_EXTRA_CA_CERTS") from exc
                raise
            path = (await link.asked()).path
            if path != "/base/agent":
                raise Broken(f"it asks for {path}")
            if link.sni != "localhost":
                raise Broken(f"the server name of its handshake is {link.sni or 'missing'}")
            return f"{path} over TLS, SNI {link.sni}"


async def bearer(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        request = await link.asked()
        token = token_of(request)
        try:
            claims = verify_token(token, {worker.key: worker.secret}, wall=time.time(), leeway=0)
        except TokenError as exc:
            raise Broken(f"its token is refused: {exc}") from None
        if claims.expires_at is None:
            raise Broken("its token never expires")
        if claims.video.get("agent") is not True:
            raise Broken("its token has no video.agent grant")
        if _part(token, 0).get("alg") != "HS256":
            raise Broken("its token is not signed with HS256")
        if token in request.query:
            raise Broken("its token is in the URL")
        await link.register()
        await anyio.sleep(0.5)
        _no_secret(worker, token)
        return f"valid for {claims.expires_at - time.time():.0f} s"


async def fresh_token(lab: Lab) -> str:
    async with lab.worker() as worker:
        first = await worker.registered()
        before = token_of(await first.asked())
        await anyio.sleep(2.1)  # tokens count in seconds
        await first.drop()
        second = await worker.connection(15)
        after = token_of(await second.asked())
        if before == after or _part(before, 1)["exp"] >= _part(after, 1)["exp"]:
            raise Broken("the second connection came with the first one's token")
        return "the second token ends later than the first"


async def clocks_apart(lab: Lab) -> str:
    async with lab.worker() as worker:
        token = token_of(await (await worker.connection()).asked())
        try:
            verify_token(token, {worker.key: worker.secret}, wall=time.time() - 50, leeway=60)
        except TokenError as exc:
            raise Broken(f"a server 50 s behind refuses its token: {exc}") from None
        return "accepted"


async def patient(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        await link.asked()
        await anyio.sleep(1.0)
        _, _, rest = link.head.partition(b"\r\n\r\n")
        if rest:
            raise Broken(f"it sent {len(rest)} bytes before the 101")
        await link.registration()
        return "nothing before the 101"


async def unoffered(lab: Lab) -> str:
    async with lab.worker() as worker:
        for header in ("Sec-WebSocket-Protocol: x-contracts", "Sec-WebSocket-Extensions: x-contracts"):
            link = await worker.connection()
            request = await link.asked()
            link.automatic, link.upgraded = False, True
            await link.write(_switching(request, header))
            await poll(lambda link=link: link.ended or link.frames, 4)
            if any(found.opcode == 2 for found in link.frames):
                raise Broken(f"it goes on after a 101 with {header.split(':')[0]} that it did not offer")
            if not link.ended and not link.frames:
                raise Broken("it neither goes on nor closes")
            if not worker.alive:
                return f"refused{worker.fate()}"
        return "both refused"


def _switching(request: UpgradeRequested, header: str) -> bytes:
    from hashlib import sha1

    key = request.headers.get("sec-websocket-key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(sha1(key.encode(), usedforsecurity=False).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{header}\r\n\r\n"
    ).encode()


async def _refusals(worker: Worker, status: int, body: bytes, seconds: float) -> int:
    """Refuse every connection for so long; how many there were."""
    count = 0
    with anyio.move_on_after(seconds) as scope:
        while True:
            try:
                link = await worker.connection()
            except Broken:
                if not worker.alive and count:
                    break
                raise
            if not count:
                scope.deadline = anyio.current_time() + seconds
            count += 1
            await link.refuse(status, body)
    return count


async def unauthorized(lab: Lab) -> str:
    async with lab.worker() as worker:
        count = await _refusals(worker, 401, b"no permissions to access the room", 5)
        if count > _ATTEMPTS:
            raise Broken(f"{count} attempts within 5 s")
        if "401" not in worker.output:
            raise Broken("its output does not say 401")
        _no_secret(worker)
        if worker.alive:
            raise Differs(f"tries on: {count} attempts within 5 s; recommended is to give up after one more")
        return f"{count} attempts, then it gives up{worker.fate()}"


async def forbidden_and_missing(lab: Lab) -> str:
    async with lab.worker() as worker:
        if (count := await _refusals(worker, 403, b"forbidden", 4)) > _ATTEMPTS:
            raise Broken(f"{count} attempts within 4 s after 403")
    async with lab.worker() as worker:
        if (count := await _refusals(worker, 404, b"404 page not found", 4)) > _ATTEMPTS:
            raise Broken(f"{count} attempts within 4 s after 404")
        if "404" not in worker.output or "/agent" not in worker.output:
            raise Broken("after a 404 its output does not name the status and the URL")
        return "bounded; the URL is named"


async def unavailable(lab: Lab) -> str:
    async with lab.worker() as worker:
        times: list[float] = []
        for status in (503, 502, 504):
            link = await worker.connection(20)
            times.append(time.monotonic())
            await link.refuse(status, b"<html>try later</html>")
        await (await worker.registered(20)).works()
        return "waits " + ", ".join(f"{b - a:.1f} s" for a, b in pairwise(times)) + ", then works"


async def redirected(lab: Lab) -> str:
    async with lab.worker() as worker, await anyio.create_tcp_listener(local_host="127.0.0.1") as other:
        heads: list[bytes] = []

        async def take(stream: SocketStream) -> None:
            async with stream:
                heads.append(await stream.receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.serve, take)
            port = other.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
            for status in (301, 307):
                try:
                    link = await worker.connection(20)
                except Broken:
                    break  # it has given up: that is no following either
                await link.refuse(status, b"", {"location": f"http://127.0.0.1:{port}/agent"})
                await anyio.sleep(1.0)
            tasks.cancel_scope.cancel()
        if any(b"authorization" in head.lower() for head in heads):
            raise Broken("it follows a redirect to another origin with its token")
        return "not followed" if not heads else "followed without the token"


async def not_livekit(lab: Lab) -> str:
    async with lab.worker() as worker:
        if (count := await _refusals(worker, 200, b"<!doctype html><title>It works!</title>", 4)) > _ATTEMPTS:
            raise Broken(f"{count} attempts within 4 s")
        if "200" not in worker.output:
            raise Broken("its output does not say what it got: 200 in place of 101")
        return f"told; {count} attempts within 4 s"


async def silent_server(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        began = time.monotonic()
        link.automatic = False
        try:
            await worker.connection(25)
        except Broken as exc:
            raise Differs(f"waits longer than 25 s for an answer to its upgrade ({exc})") from None
        return f"tries again after {time.monotonic() - began:.1f} s"


@asynccontextmanager
async def _authority() -> AsyncGenerator[tuple[Any, dict[str, str]]]:
    """A CA, and the environment in which a worker trusts it."""
    import trustme

    ca: Any = trustme.CA()
    with TemporaryDirectory() as directory:
        path = Path(directory) / "ca.pem"
        ca.cert_pem.write_to_path(str(path))
        yield ca, {"SSL_CERT_FILE": str(path), "NODE_EXTRA_CA_CERTS": str(path), "no_proxy": "*"}


async def bad_certificates(lab: Lab) -> str:
    import trustme

    long_ago = datetime.now(UTC) - timedelta(days=2)
    seen: list[str] = []
    async with _authority() as (ca, env):
        stranger: Any = trustme.CA()
        certificates = {
            "expired": ca.issue_cert("localhost", not_before=long_ago - timedelta(days=2), not_after=long_ago),
            "of another host": ca.issue_cert("elsewhere.example"),
            "of an unknown CA": stranger.issue_cert("localhost"),
        }
        for name, certificate in certificates.items():
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(context)
            async with lab.worker(scheme="wss", host="localhost", env=env, tls=context) as worker:
                await poll(lambda: worker.tls_failures or worker.links or not worker.alive, 20 * lab.patience)
                await anyio.sleep(0.5)
                if worker.links:
                    raise Broken(f"it accepts a certificate {name}")
                if not worker.tls_failures:
                    raise Broken(f"it does not even try ({name}){worker.fate()}")
                seen.append(name)
    return "refused: " + ", ".join(seen)


async def nobody_listens(lab: Lab) -> str:
    async with lab.worker(listening=False) as worker:
        await anyio.sleep(1.0)
        if not worker.alive:
            raise Differs(f"gives up at once when nobody listens{worker.fate()}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lab.listen, worker)
            link = await worker.registered(40)
            await link.works()
            tasks.cancel_scope.cancel()
        return "connects once somebody listens"


def _case(number: int, title: str, run: Any, seconds: float = 3.0) -> Case:
    return Case(number=number, title=title, run=run, seconds=seconds)


CASES = (
    _case(1, "http:// URL: GET /agent, HTTP/1.1", plain_url),
    _case(2, "https:// URL with a path: TLS, SNI, /base/agent", base_path),
    _case(3, "bearer token: HS256, expiring, video.agent, shown nowhere", bearer),
    _case(4, "a fresh token for each connection", fresh_token, 6),
    _case(5, "token valid for a server 50 s behind", clocks_apart),
    _case(6, "no frame before the 101", patient),
    _case(8, "101 with an unoffered subprotocol or extension", unoffered, 10),
    _case(9, "401: told, no fast retry, gives up", unauthorized, 9),
    _case(10, "403 and 404: no fast retry, the URL named", forbidden_and_missing, 14),
    _case(12, "502, 503, 504: retried with backoff", unavailable, 12),
    _case(13, "redirect to another origin: token not taken there", redirected, 8),
    _case(14, "200 with HTML: told, no fast retry", not_livekit, 8),
    _case(15, "no answer to the upgrade: given up, tried again", silent_server, 22),
    _case(17, "bad certificates refused, no fall back to plain", bad_certificates, 12),
    _case(18, "connection refused: tried again", nobody_listens, 12),
)
