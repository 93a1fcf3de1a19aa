"""A WebSocket client that is told line by line what to do: reads JSON calls, writes JSON answers.

One thread owns the connection. The library's threaded client reads and writes one TLS session from two threads at once, which
OpenSSL does not allow: when the server's session tickets arrive beside the request, it now and then waits for ever.
"""

import asyncio
import contextlib
import json
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

OFFERS = {
    "none": {"compression": None},
    "deflate": {"compression": "deflate"},
    "narrow": {"compression": None, "extensions": [ClientPerMessageDeflateFactory(server_max_window_bits=10)]},
}
TIMEOUT_S = 5


class Peer:
    def __init__(self, until_the_end):
        self.until_the_end = until_the_end

    async def open(self, url, ca, offer):
        # The keep-alive is off so that the only pings are those that a test sends; no proxy may stand between.
        options = {"proxy": None, "ping_interval": None, "open_timeout": TIMEOUT_S, "close_timeout": TIMEOUT_S}
        options["ssl"] = ssl.create_default_context(cafile=ca) if ca else None
        self.socket = await self.until_the_end.enter_async_context(connect(url, **options, **OFFERS[offer]))
        return self.socket.response.headers.get("Sec-WebSocket-Extensions")

    async def send(self, text, binary):
        await self.socket.send(text.encode() if binary else text)

    async def next(self, timeout):
        try:
            message = await asyncio.wait_for(self.socket.recv(), timeout)
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                return {"close": 1006, "reason": ""}
            return {"close": closed.rcvd.code, "reason": closed.rcvd.reason}
        return {"text": message} if isinstance(message, str) else {"binary": list(message)}

    async def ping(self, data, timeout):
        await asyncio.wait_for(await self.socket.ping(data), timeout)
        return data

    async def close(self, code, reason):
        await self.socket.close(code, reason)
        return self.socket.close_code


async def main():
    async with contextlib.AsyncExitStack() as stack:
        peer = Peer(stack)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *values = json.loads(line)
            try:
                answer = {"result": await getattr(peer, name)(*values)}
            except Exception as error:  # whatever it is, the test wants to know
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


asyncio.run(main())
