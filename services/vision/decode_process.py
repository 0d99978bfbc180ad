"""The processes that decode, as the service sees them: a template, and the children that it forks; all calls block."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from services.kit.errors import InvalidImage, InvalidImageFormat, InvalidImageSize
from services.kit.log import Log
from services.vision.decode import ImageInfo
from services.vision.decode_child import END, FILES, FORK, NETWORK, ORDER, REPLY
from services.vision.decode_messages import (
    Answer,
    Buffer,
    Pixels,
    Refused,
    Repacked,
    Request,
    answer_decoder,
    encoder,
    receive,
    send,
)

START_SECONDS = 60.0  # for a template on a busy machine
ORDER_SECONDS = 30.0  # for a fork, or for a killed process to end
KEPT_BYTES = 16 << 20  # of a buffer between two images
_PYTHON = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME")
_PASSED_ON = ("PATH", *_PYTHON, "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")  # no secrets
_OWN_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Otherwise glibc gives memory back after each image, and getting it again takes longer than decoding.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}

T = TypeVar("T")
_log = Log(__name__)


class ChildEnded(Exception):
    """The process ended before it answered."""


class RefusedWithHeader(Exception):
    """The header can be read, but the image cannot be used."""

    def __init__(self, error: InvalidImage, info: ImageInfo) -> None:
        super().__init__(error.message)
        self.error = error
        self.info = info


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, and the most that it used."""

    status: int = 0
    resident_bytes: int = 0
    cpu_seconds: float = 0.0

    @property
    def used_up_its_cpu(self) -> bool:
        """Whether its CPU limit ended it."""
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGPROF


class Template:
    """The process that forks the others. OSError from any call: it has ended, and so have its children."""

    def __init__(self) -> None:
        self._control, there = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.vision.decode_child", str(there.fileno())],
                env=environment | _OWN_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        self._control.settimeout(START_SECONDS)
        gave_up = self._reply()[1]
        self.isolated = bool(gave_up & NETWORK)
        self.kept = bool(gave_up & FILES)  # from files that it does not need
        self._control.settimeout(ORDER_SECONDS)
        refused = "shared: this system allows no other"
        network, files = ("none" if self.isolated else refused), ("own" if self.kept else refused)
        _log.info("decoder_started", network=network, files=files)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def fork(self) -> "Child":
        """A new process that waits for its first image."""
        here, there = socket.socketpair()
        buffer = Buffer.create()
        try:
            with there:
                socket.send_fds(self._control, [ORDER.pack(FORK, 0)], [there.fileno(), buffer.file])
            return Child(self, self._reply()[0], here, buffer)
        except BaseException:
            here.close()
            buffer.close()
            raise

    def end(self, pid: int) -> Ended:
        """Kills one of the children, unless it has ended."""
        try:
            self._control.sendall(ORDER.pack(END, pid))
            _, status, resident_bytes, cpu_seconds = self._reply()
        except OSError:
            return Ended()
        return Ended(status, resident_bytes, cpu_seconds)

    def close(self) -> None:
        """Ends it and all its children."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def _reply(self) -> tuple[int, int, int, float]:
        body = self._control.recv(REPLY.size, socket.MSG_WAITALL)
        if len(body) < REPLY.size:
            raise ConnectionResetError(f"the process that starts decoders ended with status {self._process.poll()}")
        return REPLY.unpack(body)


class Child:
    """A process that decodes one image after the other, and the memory that it shares with this one."""

    def __init__(self, template: Template, pid: int, connection: socket.socket, buffer: Buffer) -> None:
        self.pid = pid
        self._template = template
        self._connection = connection
        self._buffer = buffer

    def ask(self, request: Request, data: bytes, use: Callable[[Answer, Buffer], T]) -> T:
        """What `use` makes of the answer; raises InvalidImage, RefusedWithHeader, ChildEnded, and what `use` raises."""
        self._buffer.memory[: len(data)] = data
        try:
            send(self._connection, encoder.encode(request))
        except OSError as error:
            raise ChildEnded from error
        body = receive(self._connection)
        if not body:
            raise ChildEnded
        answer = answer_decoder.decode(body)
        try:
            if isinstance(answer, Refused):
                raise _refusal(answer, request)
            return use(answer, self._buffer)
        finally:
            if (used := max(len(data), _end_of(answer))) > KEPT_BYTES:
                self._buffer.forget(used)

    def end(self) -> Ended:
        """Ends it, whatever it does."""
        ended = self._template.end(self.pid)
        self._connection.close()
        return ended

    def close(self) -> None:
        """Gives the shared memory back, once no thread waits for an answer."""
        with suppress(BufferError):  # somebody still looks at the pixels
            self._buffer.close()


def _end_of(answer: Answer) -> int:
    """How much of the buffer the answer fills."""
    match answer:
        case Pixels(_, arrays):
            return max((place + 3 * height * width for _, place, height, width in arrays), default=0)
        case Repacked():
            return answer.size_bytes or 0
        case Refused():
            return 0


def _refusal(answer: Refused, request: Request) -> InvalidImage | RefusedWithHeader:
    problem = answer.problem
    if answer.kind == "memory":
        problem = (
            f"needs more memory to decode than images of its size do ({request.memory_bytes >> 20} MiB); save it again"
        )
    kind = InvalidImageFormat if answer.kind == "format" else InvalidImageSize
    error = kind(file=request.name, problem=problem)
    return error if answer.info is None else RefusedWithHeader(error, answer.info)
