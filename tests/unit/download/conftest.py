"""A web server that can misbehave in the ways that real ones do."""

from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest


class Misbehaviour:
    """What the server holds and how it serves it; tests change it as they go."""

    def __init__(self):
        self.files = {}
        self.ranges = True
        self.etag = None
        self.content_type = "application/octet-stream"
        self.cut_after = defaultdict(list)  # bytes to send per request before hanging up
        self.statuses = defaultdict(list)  # status per request instead of an answer
        self.requests = []  # (path, Range header)
        self.url = ""

    def ranges_asked(self, path):
        return [asked for asked_path, asked in self.requests if asked_path == path]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        plan = self.server.plan
        asked = self.headers.get("Range")
        plan.requests.append((self.path, asked))
        statuses = plan.statuses[self.path]
        if statuses or self.path not in plan.files:
            self.send_response(statuses.pop(0) if statuses else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = plan.files[self.path]
        same_version = self.headers.get("If-Range") in (None, plan.etag)
        start = int(asked[len("bytes=") : -1]) if asked and plan.ranges and same_version else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if plan.etag:
            self.send_header("ETag", plan.etag)
        self.send_header("Content-Type", plan.content_type)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = plan.cut_after[self.path]
        stop = start + cuts.pop(0) if cuts else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A running server; ``server.files`` maps paths such as ``/a.h5`` to bytes."""
    plan = Misbehaviour()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.plan = plan
        plan.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield plan
        http.shutdown()
        thread.join()
