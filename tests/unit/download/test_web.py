"""How servers are asked: waits they wish, connections at once, certificates."""

import shutil
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mtlpar.download.web import InterruptedTransferError, Web


@pytest.fixture
def web(monkeypatch):
    """Access that notes its waits instead of sitting them out."""
    with Web(retries=3, timeout_s=5) as web:
        web.waits_s = []
        monkeypatch.setattr(web, "pause", web.waits_s.append)
        yield web


def test_each_retry_waits_twice_as_long(server, web):
    server.statuses["/a"] = [503] * 3
    server.files["/a"] = b"text"
    assert web.text(f"{server.url}/a") == "text"
    assert web.waits_s == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_the_server_asks_for_is_kept(server, web, status):
    server.statuses["/a"] = [(status, {"Retry-After": "17"})]
    server.files["/a"] = b"text"
    web.text(f"{server.url}/a")
    assert web.waits_s == [17.0]


def test_a_moment_that_the_server_names_is_waited_for(server, web):
    moment = datetime.now(UTC) + timedelta(seconds=100)
    header = {"Retry-After": format_datetime(moment, usegmt=True)}
    server.statuses["/a"] = [(429, header), (429, {"Retry-After": "soon"})]
    server.files["/a"] = b"text"
    web.text(f"{server.url}/a")
    assert 90 < web.waits_s[0] <= 100
    # What is neither number nor date counts for nothing.
    assert web.waits_s[1] == 2.0


def test_a_wait_of_hours_is_an_error_that_says_how_long(server, web):
    server.statuses["/a"] = [(429, {"Retry-After": "7200"})]
    with pytest.raises(ValueError, match=r"429 .*come back in 7200 s; run again then"):
        web.text(f"{server.url}/a")
    assert web.waits_s == []


@pytest.mark.parametrize("target", ["/a", "ftp://elsewhere/a"])
def test_an_address_that_leads_nowhere_is_an_error_at_once(server, web, target):
    server.statuses["/a"] = [(302, {"Location": target})] * 50
    with pytest.raises(ValueError, match="leads nowhere"):
        web.text(f"{server.url}/a")
    assert web.waits_s == []


def test_a_host_gets_as_many_connections_as_allowed_and_no_more():
    # Twelve threads want to. Three at a time meet at the barrier, or nobody would come through.
    barrier = threading.Barrier(3)
    inside = []

    def ask(_):
        with web.slot("https://a/x"):
            inside.append(None)
            barrier.wait(timeout=30)
            most = len(inside)
            barrier.wait(timeout=30)
            inside.pop()
            return most

    with Web(retries=0, timeout_s=5, per_host=3) as web, ThreadPoolExecutor(12) as pool:
        assert max(pool.map(ask, range(12))) == 3


def test_hosts_do_not_wait_for_each_other():
    with (
        Web(retries=0, timeout_s=5, per_host=1) as web,
        web.slot("https://a/x"),
        web.slot("https://b/x"),
        web.slot("/local/x"),
    ):
        pass


def test_a_wait_ends_when_the_run_is_stopped():
    with Web(retries=0, timeout_s=5) as web:
        threading.Timer(0.05, web.stop.set).start()
        with pytest.raises(InterruptedTransferError):
            web.pause(60)


class _Redirect(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", self.server.target)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def https_redirect(tmp_path, server):
    """A server with a certificate that it signed itself; it leads to the unencrypted one."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Redirect) as http:
        http.target = f"{server.url}/a"
        http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"https://localhost:{http.server_address[1]}/a", certificate
        http.shutdown()
        thread.join()


def test_a_server_that_cannot_show_who_it_is_is_refused_at_once(https_redirect):
    url, _ = https_redirect
    with (
        Web(retries=3, timeout_s=5, backoff_s=60) as web,
        pytest.raises(ValueError, match=r"certificate cannot be verified .*SSL_CERT_FILE"),
    ):
        web.text(url)


def test_an_encrypted_address_never_leads_to_an_unencrypted_one(
    https_redirect, server, monkeypatch
):
    url, certificate = https_redirect
    server.files["/a"] = b"forged"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        Web(retries=0, timeout_s=5) as web,
        pytest.raises(ValueError, match="not encrypted; refused"),
    ):
        web.text(url)
