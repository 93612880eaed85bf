"""A web server that can misbehave in the ways that real ones do."""

import ssl
import time
from collections import defaultdict
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest

from mtlpar.core.paths import Workspace

COLUMNS = "source,file,url,bytes,md5,sha256,licence,doi,citation,level_of_theory,kind"


class Misbehaviour:
    """What the server holds and how it serves it; tests change it as they go."""

    def __init__(self):
        self.files = {}
        self.ranges = True
        self.etag = None
        self.headers = {"Content-Type": "application/octet-stream"}
        self.length_is_said = True
        self.cut_after = defaultdict(list)  # bytes to send per request before hanging up
        self.stall_after = defaultdict(list)  # bytes to send per request before going silent
        self.statuses = defaultdict(list)  # status, or (status, headers), instead of an answer
        self.chunk_bytes = 1 << 20
        self.chunk_pause_s = 0.0
        self.requests = []  # (path, Range header)
        self.sent_bytes = 0
        self.url = ""
        self.ended = Event()

    def ranges_asked(self, path):
        return [asked for asked_path, asked in self.requests if asked_path == path]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        plan = self.server.plan
        asked = self.headers.get("Range")
        plan.requests.append((self.path, asked))
        statuses = plan.statuses[self.path]
        if statuses or self.path not in plan.files:
            self._refuse(statuses.pop(0) if statuses else 404)
            return
        content = plan.files[self.path]
        same_version = self.headers.get("If-Range") in (None, plan.etag)
        start = int(asked[len("bytes=") : -1]) if asked and plan.ranges and same_version else 0
        if start and start >= len(content):
            self._refuse((416, {"Content-Range": f"bytes */{len(content)}"}))
            return
        # Decided before the client hears anything: it may leave, and tests go on, at the headers.
        stop, goes_silent = self._end_of_body(content, start)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if plan.etag:
            self.send_header("ETag", plan.etag)
        for name, value in plan.headers.items():
            self.send_header(name, value)
        if plan.length_is_said:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._send_body(content, start, stop, goes_silent=goes_silent)

    def _refuse(self, status):
        status, headers = status if isinstance(status, tuple) else (status, {})
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _end_of_body(self, content, start):
        plan = self.server.plan
        cuts, stalls = plan.cut_after[self.path], plan.stall_after[self.path]
        goes_silent = bool(stalls)
        ends = stalls or cuts
        return start + ends.pop(0) if ends else len(content), goes_silent

    def _send_body(self, content, start, stop, *, goes_silent):
        plan = self.server.plan
        try:
            for offset in range(start, stop, plan.chunk_bytes):
                time.sleep(plan.chunk_pause_s)
                chunk = content[offset : min(stop, offset + plan.chunk_bytes)]
                self.wfile.write(chunk)
                plan.sent_bytes += len(chunk)
            if goes_silent:
                plan.ended.wait()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed, or had enough

    def log_message(self, *_):
        pass


def _serve():
    plan = Misbehaviour()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.plan = plan
        plan.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield plan
        plan.ended.set()
        http.shutdown()
        thread.join()


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once():
    """Let clients share the authorities that they trust: reading them takes most of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture
def server():
    """A running server; ``server.files`` maps paths such as ``/a.h5`` to bytes."""
    yield from _serve()


@pytest.fixture
def other_server():
    """A second host."""
    yield from _serve()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(raw=tmp_path / "raw", results=tmp_path / "results")


@pytest.fixture
def catalogue(tmp_path, server):
    """Write a catalogue of (source, file, path on the server, kind[, bytes, md5])."""

    def write(*rows):
        lines = [COLUMNS]
        for source, file, path, kind, *known in rows:
            size, md5 = known or ("", "")
            lines.append(
                f"{source},{file},{server.url}{path},{size},{md5},,CC0,10.1/x,Someone,DFT,{kind}"
            )
        table = tmp_path / "sources.csv"
        table.write_text("\n".join(lines) + "\n")
        return table

    return write
