"""A name server for tests, authoritative for everything, on UDP and TCP of one loopback port.

    with FakeDns() as server:
        server.add("example.org", "MX", "10 mx.example.org.")
        server.fail("broken.example", "MX", "SERVFAIL")
        ... resolver server.where ...

It may be changed while it runs.  What was asked is in ``asked``.
"""

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

TIMEOUT = "TIMEOUT"                # a failure: no answer at all
TRUNCATED = "TRUNCATED"            # a failure: over UDP only "ask again over TCP"
GARBAGE = "GARBAGE"                # a failure: octets that are no message
_UDP_MAX = 512


class FakeDns:
    """The server; a context manager."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.asked: list[tuple[str, str, str]] = []     # udp or tcp, name, type
        self._records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self._failures: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._tcp = socket.create_server((address, port))
        self.address, self.port = self._tcp.getsockname()[:2]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((self.address, self.port))
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def where(self) -> str:
        """For ``resolver`` in smtpd.conf."""
        return f"{self.address}:{self.port}"

    def add(self, name: str, kind: str, *values: str, ttl: int = 300) -> None:
        """The records of a name and type, in the words of a zone file."""
        with self._lock:
            self._records[_key(name), kind] = (ttl, list(values))

    def remove(self, name: str, kind: str) -> None:
        with self._lock:
            del self._records[_key(name), kind]

    def fail(self, name: str, kind: str, how: str) -> None:
        """Answer with an rcode such as SERVFAIL, or TIMEOUT, TRUNCATED, GARBAGE."""
        with self._lock:
            self._failures[_key(name), kind] = how

    def heal(self, name: str, kind: str) -> None:
        with self._lock:
            del self._failures[_key(name), kind]

    def count(self, name: str, kind: str) -> int:
        """How often this was asked."""
        with self._lock:
            return sum(1 for _, asked, what in self.asked if (asked, what) == (_key(name), kind))

    def __enter__(self) -> "FakeDns":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._waker.send(b"x")
        self._thread.join()
        for sock in (self._tcp, self._udp, self._wake, self._waker):
            sock.close()

    # the thread

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in (self._tcp, self._udp, self._wake):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._wake in ready:
                    return
                if self._udp in ready:
                    self._datagram()
                if self._tcp in ready:
                    self._stream()

    def _datagram(self) -> None:
        data, client = self._udp.recvfrom(65535)
        answer = self._answer(data, "udp")
        if answer is not None:
            with contextlib.suppress(OSError):
                self._udp.sendto(answer, client)

    def _stream(self) -> None:
        connection, _ = self._tcp.accept()
        with connection, contextlib.suppress(OSError, EOFError):
            connection.settimeout(2.0)
            (length,) = struct.unpack("!H", _exactly(connection, 2))
            answer = self._answer(_exactly(connection, length), "tcp")
            if answer is not None:
                connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, data: bytes, how: str) -> bytes | None:
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return None
        question = query.question[0]
        name, kind = _key(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        with self._lock:
            self.asked.append((how, name, kind))
            failure = self._failures.get((name, kind), "")
            if failure in (TIMEOUT, GARBAGE):
                return data[:2] + b"\x81\x80junk" if failure == GARBAGE else None
            if failure and failure != TRUNCATED:
                response.set_rcode(dns.rcode.from_text(failure))
            else:
                self._fill(response, question.name, name, kind)
        if failure == TRUNCATED and how == "udp":
            response.answer.clear()
            response.flags |= dns.flags.TC
        return _wire(response, how)

    def _fill(self, response: dns.message.Message, owner: dns.name.Name, name: str, kind: str) -> None:
        """The answer, with the CNAMEs on the way to it; or a denial with its SOA."""
        for _ in range(8):
            found = self._records.get((name, kind))
            if found is not None:
                response.answer.append(dns.rrset.from_text_list(owner, found[0], "IN", kind, found[1]))
                return
            alias = self._records.get((name, "CNAME"))
            if alias is None:
                break
            response.answer.append(dns.rrset.from_text_list(owner, alias[0], "IN", "CNAME", alias[1]))
            name, owner = _key(alias[1][0]), dns.name.from_text(alias[1][0])
        soa = dns.rrset.from_text_list(dns.name.root, 60, "IN", "SOA", ["ns. root. 1 3600 600 86400 60"])
        response.authority.append(soa)
        if not any(known == name or known.endswith("." + name) for known, _ in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)


def _wire(response: dns.message.Message, how: str) -> bytes:
    wire = response.to_wire(max_size=65535)
    if how == "udp" and len(wire) > _UDP_MAX:
        response.answer.clear()
        response.authority.clear()
        response.flags |= dns.flags.TC
        wire = response.to_wire()
    return wire


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _key(name: str) -> str:
    return name.lower().rstrip(".")
