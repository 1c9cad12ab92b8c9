"""A proxy in front of a tracking server that lets a test decide what becomes of each request."""

import contextlib
import http.client
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

# Passed on; passed on and its answer thrown away, as when a connection breaks; or answered with a status.
Fate = Literal["pass", "lose the answer"] | int

_TOO_LARGE = b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n</html>\r\n"  # as nginx says it
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host"}


class Proxy:
    """Asks `decide(method, path, headers)` about every request; a context manager."""

    def __init__(self, target: str, decide: Callable[[str, str, Mapping[str, str]], Fate]) -> None:
        upstream = urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):  # a client that has gone
                    super().handle_one_request()

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fate = decide(self.command, self.path, self.headers)
                if isinstance(fate, int):
                    self.answer(fate, [], _TOO_LARGE if fate == 413 else b"{}")
                    return
                headers = {key: value for key, value in self.headers.items() if key.lower() not in _HOP_BY_HOP}
                assert upstream.hostname is not None
                with contextlib.closing(http.client.HTTPConnection(upstream.hostname, upstream.port)) as connection:
                    connection.request(self.command, self.path, body, headers)
                    response = connection.getresponse()
                    content = response.read()
                if fate == "lose the answer":
                    self.close_connection = True
                else:
                    self.answer(response.status, response.getheaders(), content)

            def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                for key, value in headers:
                    if key.lower() not in _HOP_BY_HOP:
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Proxy":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
