"""The processes that decode: `python -m services.vision.decode_child FD`, a template that forks one at each request.

The template has one thread and has imported all that decoding needs, so that a fork is safe and takes milliseconds. It
ends when the other end of FD closes, and its children with it.
"""

import ctypes
import gc
import os
import resource
import signal
import socket
import struct
import sys
import warnings
from contextlib import suppress
from typing import NoReturn

import numpy as np
from PIL import Image

from services.kit import landlock
from services.kit.confinement import leave_network
from services.kit.errors import InvalidImage, InvalidImageSize
from services.vision.decode import ImageInfo, decode_sizes, inspect
from services.vision.decode_messages import (
    Answer,
    Buffer,
    Decode,
    Pixels,
    Refused,
    Repack,
    Repacked,
    Request,
    encoder,
    receive,
    request_decoder,
    send,
)
from services.vision.repack import encode_for_pack
from sightline.images import libtiff

ORDER = struct.Struct("<cI")  # FORK with two descriptors, or END with a process id
REPLY = struct.Struct("<iiqd")  # process id, exit status, most resident bytes, CPU-seconds
FORK, END = b"f", b"e"
NETWORK, FILES = 1, 2  # what the template has given up, in the place of a status in its first reply
_PARENT_DEATH = 1
_MOST_FILES = 32


def main() -> NoReturn:
    """Serves the orders until the parent closes the connection."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    isolated = leave_network()
    Image.init()
    libtiff.silence()
    warnings.simplefilter(
        "ignore"
    )  # Pillow's would be plain text in the service's log, written by whoever sends images
    kept = landlock.keep_to([], [], network=False)
    gc.freeze()  # so that children share these pages
    control.sendall(REPLY.pack(os.getpid(), NETWORK * isolated | FILES * kept, 0, 0.0))
    while True:
        order, files, _, _ = socket.recv_fds(control, ORDER.size, 2)
        if not order:
            os._exit(0)
        word, pid = ORDER.unpack(order)
        control.sendall(_fork(control, files) if word == FORK else _end(pid))


def _fork(control: socket.socket, files: list[int]) -> bytes:
    if (pid := os.fork()) == 0:
        try:
            control.close()
            _serve(socket.socket(fileno=files[0]), files[1])
        finally:
            os._exit(1)
    for file in files:
        os.close(file)
    return REPLY.pack(pid, 0, 0, 0.0)


def _end(pid: int) -> bytes:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # changes nothing if it has ended: nobody else waits for it
    _, status, used = os.wait4(pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return REPLY.pack(pid, status, used.ru_maxrss * unit, used.ru_utime + used.ru_stime)


def _serve(connection: socket.socket, file: int) -> NoReturn:
    """Answers requests until the parent closes the connection or a limit kills this process."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
    with suppress(OSError):
        _write_oom_score()
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    buffer = Buffer.of(file)
    memory_bytes, addresses = 0, _address_bytes()
    while body := receive(connection):
        request = request_decoder.decode(body)
        if addresses and request.memory_bytes != memory_bytes:
            memory_bytes = request.memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (addresses + memory_bytes, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, request.cpu_seconds)  # its signal kills
        answer = _answer(request, buffer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(connection, encoder.encode(answer))
    os._exit(0)


def _write_oom_score() -> None:
    """A machine short of memory should lose this process, not the service."""
    file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    try:
        os.write(file, b"1000")
    finally:
        os.close(file)


def _address_bytes() -> int:
    """The size of this process's address space; 0 where it cannot be read, and is then not limited either."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(file, 200).split()[0]) * resource.getpagesize()
    finally:
        os.close(file)


def _answer(request: Request, buffer: Buffer) -> Answer:
    data = buffer.memory[: request.size_bytes]
    info: ImageInfo | None = None
    try:
        match request.task:
            case Decode(sizes):
                return _decoded(data, sizes, request.name, buffer)
            case Repack():
                info = inspect(data, request.name)
                return _repacked(data, info, request.name, buffer)
    except InvalidImage as error:
        kind = "size" if isinstance(error, InvalidImageSize) else "format"
        return Refused("memory" if isinstance(error.__cause__, MemoryError) else kind, error.metadata["problem"], info)
    except MemoryError:
        return Refused("memory", "", info)


def _decoded(data: bytes, sizes: tuple[int, ...], name: str, buffer: Buffer) -> Pixels:
    decoded = decode_sizes(data, sizes, name)
    places: dict[int, int] = {}  # of arrays, by identity: sizes may share one
    arrays: list[tuple[int, int, int, int]] = []
    end = 0
    for size, pixels in decoded.pixels.items():
        if id(pixels) not in places:
            places[id(pixels)] = end
            np.copyto(buffer.pixels(end, *pixels.shape[:2]), pixels)
            end += pixels.nbytes
        arrays.append((size, places[id(pixels)], *pixels.shape[:2]))
    return Pixels(decoded.info, tuple(arrays))


def _repacked(data: bytes, info: ImageInfo, name: str, buffer: Buffer) -> Repacked:
    image = encode_for_pack(data, info, name=name)
    size_bytes = None
    if image.reencoded:
        size_bytes = len(image.data)
        buffer.memory[:size_bytes] = image.data
    return Repacked(info, image.width, image.height, image.extension, size_bytes, image.fingerprint, image.notes)


if __name__ == "__main__":
    main()
