"""A server on this machine that speaks the chat protocol of OpenAI, with the faults of real ones."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalChat:
    """
    Answers each request with what `answer` makes of its body: a text, or a fault.

    `faults` go first, one for each request: a status, `"cut"` for a connection that is closed halfway, or `"nonsense"` for a page
    of a proxy. With `key`, requests need it.
    """

    def __init__(self, answer):
        self.answer, self.faults, self.key, self.requests = answer, [], None, []
        self.retry_after, self.error = None, "no"
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                server.handle(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request):
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.requests.append((request.path, body, dict(request.headers)))
            fault = self.faults.pop(0) if self.faults else None
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if fault is None and self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
                fault = 401
            answer = fault or self.answer(body)
            if answer == "cut":
                request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                request.close_connection = True
            elif answer == "nonsense":
                self.send(request, 200, b"<html>busy</html>")
            elif isinstance(answer, int):
                # Some servers repeat the key.
                error = f"{self.error} {request.headers.get('Authorization')}"
                self.send(request, answer, json.dumps({"error": {"message": error}}).encode())
            else:
                choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
                self.send(request, 200, json.dumps({"choices": [choice]}).encode())
        except OSError:  # of a client that was killed
            request.close_connection = True
        finally:
            with self._lock:
                self.under_way -= 1

    def send(self, request, status, content):
        request.send_response(status)
        if status == 429 and self.retry_after is not None:
            request.send_header("Retry-After", str(self.retry_after))
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
