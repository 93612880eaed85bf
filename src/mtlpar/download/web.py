"""How servers are asked: politely, with patience, and never without checking who they are."""

from __future__ import annotations

import logging
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import BoundedSemaphore, Event
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx

from mtlpar.core.wording import counted
from mtlpar.download.settings import is_url

logger = logging.getLogger(__name__)
_LONGEST_WAIT_S: Final = 60.0
_LONGEST_REQUESTED_WAIT_S: Final = 600.0
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# A connection that dies after a few bytes each time is standing still, not getting on.
_STEP_BYTES: Final = 1 << 20
_T = TypeVar("_T")


class TransientError(Exception):
    """A failure that may go away when the transfer is tried again.

    Attributes:
        wait_s: How long the server asks to wait before that.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class InterruptedTransferError(Exception):
    """The run is being stopped."""


class Web:
    """Access to servers for all transfers of a run; threads may share it.

    Attributes:
        timeout_s: Seconds without a byte after which an attempt has failed.
        stop: Set it to end all transfers soon.
    """

    def __init__(
        self, *, retries: int, timeout_s: float, per_host: int = 4, backoff_s: float = 1.0
    ) -> None:
        """Open it.

        Args:
            retries: Further attempts after one that got no further than those before.
            timeout_s: Seconds without a byte after which an attempt has failed.
            per_host: Transfers from one host at the same time.
            backoff_s: Wait before the first retry; each further one waits twice as long.
        """
        self.timeout_s = timeout_s
        self.stop = Event()
        self._retries = retries
        self._backoff_s = backoff_s
        self._slots: defaultdict[str, BoundedSemaphore] = defaultdict(
            lambda: BoundedSemaphore(per_host)
        )
        # Compression would make Content-Length and ranges speak of other bytes than the file's.
        headers = {"Accept-Encoding": "identity", "User-Agent": "mtlpar"}
        self._client = httpx.Client(timeout=timeout_s, follow_redirects=True, headers=headers)

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextmanager
    def slot(self, address: str) -> Iterator[None]:
        """Wait until one transfer more from the host of an address (or this disk) is polite."""
        slot = self._slots[urlsplit(address).netloc if is_url(address) else ""]
        while not slot.acquire(timeout=0.5):
            self.pause(0.0)
        try:
            yield
        finally:
            slot.release()

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            InterruptedTransferError: If the run is being stopped.
        """
        if self.stop.wait(seconds):
            raise InterruptedTransferError

    @contextmanager
    def stream(self, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Send a request and yield the answer with its body still to come.

        Raises:
            ValueError: If the server cannot show who it is, or leads to an unencrypted address or
                nowhere.
        """
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                if urlsplit(url).scheme == "https" and response.url.scheme != "https":
                    raise ValueError(
                        f"{url} leads to {response.url}, which is not encrypted; refused"
                    )
                yield response
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ValueError(
                f"{url} leads nowhere ({error}); correct the address in the catalogue or the mirror"
            ) from error
        except httpx.ConnectError as error:
            if _is_certificate_error(error):
                raise ValueError(
                    f"{url}: the server's certificate cannot be verified ({error}). Nothing is "
                    "fetched without that; behind a proxy with a certificate of its own set "
                    "SSL_CERT_FILE to the file that your administrators give out"
                ) from error
            raise

    def text(self, url: str, *, retries: int | None = None) -> str | None:
        """Fetch a small text such as a listing; None if the server has nothing of that name.

        Args:
            url: Its address.
            retries: Further attempts, if not as many as usual.

        Raises:
            ValueError: If the server cannot be reached or refuses.
        """

        def attempt() -> str | None:
            """Ask once."""
            with self.stream(url, {}) as response:
                if response.status_code in (404, 410):
                    return None
                check_status(url, response)
                response.read()
                return response.text

        return self.patiently(attempt, what=url, retries=retries)

    def patiently(
        self,
        attempt: Callable[[], _T],
        *,
        what: str,
        progress: Callable[[], int] = lambda: 0,
        retries: int | None = None,
    ) -> _T:
        """Call until it succeeds; only attempts that got no further than the best before count.

        Raises:
            ValueError: If all allowed attempts failed, or if the server asks for too long a wait.
        """
        allowed = self._retries if retries is None else retries
        failures = 0
        best = progress()
        while True:
            try:
                return attempt()
            except (httpx.TransportError, TransientError) as error:
                reached = progress()
                failures = 1 if reached >= best + _STEP_BYTES else failures + 1
                best = max(best, reached)
                reason = _in_words(error)
                if failures > allowed:
                    raise ValueError(
                        f"{what} could not be fetched: {counted(failures, 'attempt')} failed, "
                        f"the last with {reason}.{_what_is_kept(best)} Run again later; "
                        "if this persists, name another place that has it in download.mirrors"
                    ) from error
                wait_s = min(self._backoff_s * 2.0 ** (failures - 1), _LONGEST_WAIT_S)
                requested_s = getattr(error, "wait_s", None) or 0.0
                if requested_s > _LONGEST_REQUESTED_WAIT_S:
                    raise ValueError(
                        f"{what} could not be fetched: {reason} and asks to come back in "
                        f"{requested_s:.0f} s; run again then.{_what_is_kept(best)}"
                    ) from error
                wait_s = max(wait_s, requested_s)
                logger.warning("%s: %s; trying again in %.1f s", what, reason, wait_s)
                self.pause(wait_s)


def check_status(url: str, response: httpx.Response) -> None:
    """Return if the answer holds what was asked for.

    Raises:
        TransientError: If the server may answer better later.
        ValueError: If it will not.
    """
    status = response.status_code
    if status in (200, 206):
        return
    if status in _TRANSIENT_STATUS:
        raise TransientError(
            f"the server answered {status} {response.reason_phrase}",
            _requested_wait_s(response.headers.get("Retry-After")),
        )
    advice = {
        401: "it wants a login",
        403: "it refuses this machine: a block of robots, a firewall or a login; try the address "
        "in a browser",
        404: "the file has been moved or withdrawn",
        410: "the file has been withdrawn",
    }.get(status, "it is not what a file server says")
    raise ValueError(
        f"{url} answered {status} {response.reason_phrase}, expected the file: {advice}. Correct "
        "the address in the catalogue, or fetch the file by hand and name its folder in "
        "download.mirrors"
    )


def _what_is_kept(size: int) -> str:
    return f" {size} bytes were received; the next run goes on there." if size else ""


def _in_words(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer in time ({type(error).__name__})"
    if isinstance(error, TransientError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _requested_wait_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    # A date in GMT may come without saying so.
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
