"""A WebSocket client that is told line by line what to do: reads JSON calls, writes JSON answers."""

import contextlib
import json
import ssl
import sys

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

OFFERS = {
    "none": {"compression": None},
    "deflate": {"compression": "deflate"},
    "narrow": {"compression": None, "extensions": [ClientPerMessageDeflateFactory(server_max_window_bits=10)]},
}
TIMEOUT_S = 5


class Peer:
    def __init__(self, until_the_end):
        self.until_the_end = until_the_end

    def open(self, url, ca, offer):
        # The keep-alive is off so that the only pings are those that a test sends; no proxy may stand between.
        options = {"proxy": None, "ping_interval": None, "open_timeout": TIMEOUT_S, "close_timeout": TIMEOUT_S}
        options["ssl"] = ssl.create_default_context(cafile=ca) if ca else None
        self.socket = self.until_the_end.enter_context(connect(url, **options, **OFFERS[offer]))
        return self.socket.response.headers.get("Sec-WebSocket-Extensions")

    def send(self, text, binary):
        self.socket.send(text.encode() if binary else text)

    def next(self, timeout):
        try:
            message = self.socket.recv(timeout)
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                return {"close": 1006, "reason": ""}
            return {"close": closed.rcvd.code, "reason": closed.rcvd.reason}
        return {"text": message} if isinstance(message, str) else {"binary": list(message)}

    def ping(self, data, timeout):
        if not self.socket.ping(data).wait(timeout):
            raise TimeoutError("no pong")
        return data

    def close(self, code, reason):
        self.socket.close(code, reason)
        return self.socket.close_code


def main(peer):
    for line in sys.stdin:
        name, *values = json.loads(line)
        try:
            answer = {"result": getattr(peer, name)(*values)}
        except Exception as error:  # whatever it is, the test wants to know
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


with contextlib.ExitStack() as stack:
    main(Peer(stack))
