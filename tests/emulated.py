"""A BigQuery for tests: the emulator as a process of its own, and a proxy in front of it that loses, delays and refuses."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent / "emulator"
ROOT = HERE.parents[1]
LOOPBACK = "127.0.0.1"


class Unavailable(Exception):
    """This machine cannot run the emulator: it has no Python 3.13."""


def environment(root: Path = ROOT / ".emulator") -> Path:
    """The Python of the emulator's environment, which is built when it is absent or out of date.

    Several processes may ask at once: one builds, the others wait for it. Raises ``Unavailable`` where there is no Python 3.13
    and ``RuntimeError`` when the build fails.
    """
    setup = HERE / "setup.sh"
    with open(setup) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # the build holds the lock too, so it is kept until the build ends, also when this process is killed
        done = subprocess.run(["bash", setup, root], capture_output=True, text=True, errors="replace", pass_fds=[lock.fileno()])
    if done.returncode == 3:
        raise Unavailable(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"{setup.name} ended with {done.returncode}: {(done.stdout + done.stderr)[-4000:].strip()}")
    return Path(root) / "bin" / "python"


class Emulator:
    """The emulator on a data directory, from ``start`` (or ``with``) to ``stop``; it ends with the process that started it.

    ``host`` and ``grpc`` are addresses "127.0.0.1:PORT" of its REST and its Storage Read server. A stopped or killed one may be
    started again: the data are still there, the ports are others.
    """

    def __init__(self, data_dir: Path, python: Path | None = None, threads: int = 1):
        self.data_dir, self.python, self.threads = Path(data_dir), python, threads
        self.host = self.grpc = self.pid = self.process = None

    def start(self, timeout: float = 60) -> Emulator:
        """Start it and wait until both servers answer; ``RuntimeError`` with its standard error when they do not."""
        python = self.python or environment()
        command = [python, "-I", HERE / "launcher.py", "--data-dir", self.data_dir, "--with-parent"]
        command += ["--threads", str(self.threads)]
        environ = {name: value for name, value in os.environ.items() if name.upper() != "GROUPS"}  # it reads that one as JSON
        self.data_dir.mkdir(parents=True, exist_ok=True)  # what it says goes to files: a pipe that nobody reads would fill up
        with open(self._path("out"), "wb") as out, open(self._path("err"), "wb") as err:
            self.process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.pid, until = self.process.pid, time.monotonic() + timeout
        while not (ready := re.search(rb"^READY (\S+:\d+) grpc:(\d+)\n", self._path("out").read_bytes(), re.M)):
            ended = self.process.poll()
            if ended is not None or time.monotonic() > until:
                self.kill()
                said = f"ended with {ended}" if ended is not None else f"was not ready within {timeout:g} s"
                raise RuntimeError(f"the emulator {said}: {self.stderr or 'no message'}")
            time.sleep(0.02)
        self.host, self.grpc = ready[1].decode(), f"{LOOPBACK}:{ready[2].decode()}"
        return self

    def _path(self, stream: str) -> Path:
        return self.data_dir / f"standard.{stream}"

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._path("err").read_text(errors="replace").strip()

    @property
    def environ(self) -> dict[str, str]:
        """The variables that lead a client in another process here."""
        return {"BIGQUERY_EMULATOR_HOST": self.host, "BIGQUERY_STORAGE_EMULATOR_HOST": self.grpc}

    def lead(self, patch, **instead: str) -> None:
        """Set those variables by a monkeypatch, so that clients of this process come here too, with some ``instead``."""
        for name, value in (self.environ | instead).items():
            patch.setenv(name, value)

    def stop(self) -> int:
        """End it in order, or by force after ten seconds; its return code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it by SIGKILL, as a crash would; its return code."""
        self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(self, *_):
        self.stop()


@dataclass(eq=False)
class Request:
    """A request as the client sent it. ``status`` is what the client was answered, None as long as, or because, it was not."""

    n: int
    method: str
    path: str
    headers: http.client.HTTPMessage = field(repr=False)
    body: bytes = field(repr=False)
    status: int | None = None

    @cached_property
    def json(self):
        """The body as parsed JSON, of a multipart upload its JSON part; None when there is none."""
        with contextlib.suppress(ValueError, OSError, EOFError):
            body = gzip.decompress(self.body) if self.headers.get("Content-Encoding") == "gzip" else self.body
            if self.headers.get_content_maintype() == "multipart":
                _, part, _ = body.split(b"--" + self.headers.get_boundary().encode(), 2)
                body = part.partition(b"\r\n\r\n")[2]
            found = json.loads(body) if body else None
            return found if isinstance(found, (dict, list)) else None
        return None

    @property
    def configuration(self) -> dict:
        """The configuration of the job that the request inserts; empty for any other request."""
        found = self.json.get("configuration") if self.method == "POST" and isinstance(self.json, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def sql(self) -> str | None:
        """The text of the query that the request starts, by jobs.insert or by jobs.query; None for any other request."""
        if self.method == "POST" and self.path.partition("?")[0].endswith("/queries"):
            return (self.json or {}).get("query")
        return self.configuration.get("query", {}).get("query")


def is_upload(request: Request) -> bool:
    """A request that carries a file or a part of one, or opens the session for it."""
    return request.path.startswith("/upload/")


def is_load(request: Request) -> bool:
    """The request that asks for a load job. A resumable upload makes the job only with its last PUT: see ``is_upload``."""
    return "load" in request.configuration


def is_query(request: Request) -> bool:
    """The request that starts a query job; not one that asks for its state or its rows."""
    return request.sql is not None


def query_contains(text: str) -> Callable[[Request], bool]:
    """Whether the request starts a query job whose SQL contains the text."""
    return lambda request: text in (request.sql or "")


KINDS = {  # kind of fault -> its options and their defaults
    "status": {"code": 503, "reason": "backendError", "message": "The backend failed for this test. Try again."},
    "answer": {"body": {}, "code": 200},
    "lost_request": {},
    "lost_reply": {},
    "slow": {"seconds": 1.0, "side": "before"},
    "hold": {"side": "before"},
}
STATES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
OF_ONE_HOP = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "expect",
}


@dataclass(eq=False)
class Fault:
    """What happens to the next requests that ``when`` picks; ``hits`` are those it has happened to."""

    kind: str
    when: Callable[[Request], bool]
    times: int | None
    after: int
    options: dict
    hits: list[Request] = field(default_factory=list)


class Lost(Exception):
    """The connection to the client is to be reset."""


class FaultProxy:
    """An HTTP proxy on loopback in front of the emulator's REST server that makes chosen requests fail.

    ``host`` is its address "127.0.0.1:PORT" and ``requests`` every request that it was sent, in order. Without a fault it
    changes nothing: method, path, headers and body, compressed or not, reach the emulator as they were, and so does the reply.
    The Host header too, from which the emulator makes the address of an upload session, so whole uploads pass through here.
    A reply that the emulator does not give, because it is killed, is a reset connection for the client.
    """

    def __init__(self, upstream_host: str):
        self.upstream = upstream_host
        self.requests: list[Request] = []
        self.held = threading.Event()
        self._faults: list[Fault] = []
        self._errors: list[BaseException] = []
        self._lock, self._gate, self._closing = threading.Lock(), threading.Event(), threading.Event()
        self._server = _Server(self)
        self.host = f"{LOOPBACK}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def fault(self, kind: str, *, when=None, times: int | None = 1, after: int = 0, **options) -> Fault:
        """Let ``times`` requests (None: all) that ``when`` picks fail, once ``after`` of them have passed.

        - "status": the proxy answers ``code``, ``reason`` and ``message`` as BigQuery would; the emulator never hears of it.
        - "answer": the proxy answers ``code`` with ``body`` as JSON; the emulator never hears of it.
        - "lost_request": the connection is reset, the emulator never hears of it.
        - "lost_reply": the emulator has done it and answered, the connection is reset.
        - "slow": the request waits ``seconds`` on ``side`` "before" or "after" the emulator, then goes on.
        - "hold": the request waits for ``release()``, on ``side`` "before" or "after" the emulator; ``held`` is set meanwhile.

        A request meets one fault at most, the one that was made first.
        """
        if kind not in KINDS or not set(options) <= set(KINDS[kind]):
            raise ValueError(f"no fault {kind!r} with {sorted(options)}")
        if options.get("side", "before") not in ("before", "after"):
            raise ValueError(f"side is 'before' or 'after', not {options['side']!r}")
        fault = Fault(kind, when or (lambda request: True), times, after, KINDS[kind] | options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Drop all faults. A request that is held already stays held."""
        with self._lock:
            self._faults.clear()

    def release(self) -> None:
        """Let every request go on that is held."""
        with self._lock:
            gate, self._gate = self._gate, threading.Event()
            self.held.clear()
        gate.set()

    def close(self) -> None:
        """Stop; held and running requests are reset. Raises what went wrong in the proxy itself or in a ``when``."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self.release()
        self._server.reset_all()
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_):
        self.close()

    def _arrived(self, method: str, path: str, headers, body: bytes) -> tuple[Request, Fault | None]:
        with self._lock:
            request = Request(len(self.requests), method, path, headers, body)
            self.requests.append(request)
            for fault in self._faults:
                if fault.times == 0 or not fault.when(request):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times = None if fault.times is None else fault.times - 1
                fault.hits.append(request)
                return request, fault
        return request, None

    def _wait(self) -> None:
        with self._lock:
            gate = self._gate
            self.held.set()
        gate.wait()

    def _answer(self, request: Request, fault: Fault | None) -> tuple[int, str, list[tuple[str, str]], bytes]:
        """Status, reason phrase, headers and body of the reply; ``Lost`` when the client is to get none."""
        kind, options = (fault.kind, fault.options) if fault else ("", {})
        if kind == "status":
            return refusal(**options)
        if kind == "answer":
            return said(options["code"], options["body"])
        if kind == "lost_request":
            raise Lost
        if kind == "slow" and options["side"] == "before":
            self._closing.wait(options["seconds"])
        if kind == "hold" and options["side"] == "before":
            self._wait()
        if self._closing.is_set():
            raise Lost
        reply = self._forward(request)
        if kind == "slow" and options["side"] == "after":
            self._closing.wait(options["seconds"])
        if kind == "hold" and options["side"] == "after":
            self._wait()
        if kind == "lost_reply" or self._closing.is_set():
            raise Lost
        return reply

    def _forward(self, request: Request) -> tuple[int, str, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.upstream, timeout=300)
        try:
            upstream.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in OF_ONE_HOP:
                    upstream.putheader(name, value)
            if request.body or request.method in ("POST", "PUT", "PATCH"):
                upstream.putheader("Content-Length", str(len(request.body)))
            upstream.endheaders(request.body or None)
            reply = upstream.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException) as gone:
            raise Lost from gone
        finally:
            upstream.close()
        headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in OF_ONE_HOP]
        there, here = f"http://{self.upstream}/", f"http://{self.host}/"
        headers = [(name, value.replace(there, here) if name.lower() == "location" else value) for name, value in headers]
        return reply.status, reply.reason, headers, body


def refusal(code: int, reason: str, message: str) -> tuple[int, str, list[tuple[str, str]], bytes]:
    """An error as BigQuery's REST API says it."""
    detail = {"message": message, "domain": "global", "reason": reason}
    error = {"code": code, "message": message, "errors": [detail], "status": STATES.get(code, "UNKNOWN")}
    return said(code, {"error": error})


def said(code: int, body) -> tuple[int, str, list[tuple[str, str]], bytes]:
    """A reply of JSON."""
    headers = [("Content-Type", "application/json; charset=UTF-8")]
    return code, http.client.responses.get(code, ""), headers, json.dumps(body).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy):
        self.proxy, self.open = proxy, set()
        super().__init__((LOOPBACK, 0), _Handler)

    def process_request(self, request, client_address):
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        """Only close: to shut the sending side down first would turn a reset into an ordinary end."""
        self.open.discard(request)
        request.close()

    def reset_all(self):
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                reset(connection)
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        error = sys.exception()
        if not isinstance(error, OSError):  # the client went away: its own affair
            self.proxy._errors.append(error)


def reset(connection: socket.socket) -> None:
    """Let the connection end with a reset instead of an ordinary end when it is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of a reply leave together

    def serve(self):
        proxy = self.server.proxy
        request, fault = proxy._arrived(self.command, self.path, self.headers, self.content())
        try:
            status, phrase, headers, body = proxy._answer(request, fault)
        except Lost:
            reset(self.connection)
            self.close_connection = True
            return
        request.status = status  # before it is written, or the client could look for it too early
        try:
            self.send_response_only(status, phrase)
            for name, value in headers:
                self.send_header(name, value)
            if status >= 200 and status not in (204, 304):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            request.status = None
            raise

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def content(self) -> bytes:
        """The body of the request, in one piece also when it comes in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.whole(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.whole(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def whole(self, size: int) -> bytes:
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionAbortedError("the client went away within a request")
        return body

    def log_message(self, *_):
        pass
