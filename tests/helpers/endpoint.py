"""A real HTTP server on this machine that answers as an endpoint does, or misbehaves."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str | None, top: dict[str, float] | None = None) -> dict[str, Any]:
    listed = [{"token": token, "logprob": value} for token, value in (top or {}).items()]
    logprobs = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": listed}]} if top else None
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": logprobs}]}


class Server:
    """Answers by the first user message: ``behave(message, visit) -> (status, headers, body)``, ``None`` hangs up."""

    def __init__(self, behave: Callable[[str, int], tuple[int, dict[str, str], Any] | None]) -> None:
        self.visits: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.under_way = self.most_under_way = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                message = body["messages"][0]["content"] if "messages" in body else body["prompt"]
                with lock:
                    server.visits[message] += 1
                    visit = server.visits[message]
                    server.requests.append((self.path, dict(self.headers), body))
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                try:
                    answer = behave(message, visit)
                finally:
                    with lock:
                        server.under_way -= 1
                if answer is None:
                    self.connection.close()
                    return
                status, headers, content = answer
                payload = content if isinstance(content, bytes) else json.dumps(content).encode()
                try:
                    self.send_response(status)
                    for name, value in {**headers, "content-length": str(len(payload))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:
                    pass  # the client gave up

            def log_message(self, *args: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # of 5, a busy machine drops connections, which no test here asks for

        self.http = Listener(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """Address of a server that is not there: the port is held, so that no other test's server gets it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
