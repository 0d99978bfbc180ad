"""Checks the machine: devices, shared memory, writable folders and pretrained weights."""

import asyncio
import json
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path

from services.infra.findings import GIB, Report
from services.kit import confinement
from services.kit.digests import file_digest
from services.kit.folders import try_writing
from sightline.plurals import counted

WORKER_BYTES = 4 * GIB  # of memory, with which trainings of small networks succeed
SHARED = Path("/dev/shm")  # noqa: S108 - it is measured, not written to
HEADER = struct.Struct("<Q")
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, by its format
DEVICE_SECONDS = 120.0
# In a separate process: torch takes seconds to import, and a broken driver may end the process that asks.
DEVICES = """
import json
import torch
found = []
for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    properties, memory = torch.cuda.get_device_properties(number), torch.cuda.mem_get_info(number)
    capability = f"{properties.major}.{properties.minor}"
    found.append({"name": properties.name, "free": memory[0], "memory": memory[1], "capability": capability})
if found:
    torch.ones(8, device="cuda").sum().item()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "devices": found}))
"""
# In a separate process, because it cannot be taken back.
CONFINED = """
from services.kit import confinement, landlock
print(confinement.leave_network(loopback=True), confinement.limit_memory(1 << 30), landlock.keep_to([], []))
"""


async def check_devices(report: Report, wanted: str = "auto") -> None:
    """What training and prediction would run on here; a fault if a GPU is required (`cuda`) and there is none."""
    driver = await _driver()
    status, said, complaint = await _run(sys.executable, "-c", DEVICES)
    if status != 0:
        if "No module named 'torch'" in complaint:
            report.ok("torch is not installed here: this machine neither trains nor predicts")
            return
        last = (complaint.strip().splitlines() or [f"status {status}"])[-1]
        report.fault(
            f"torch cannot be used: {last}",
            "install what `pip install 'sightline-services[all]'` brings, and a fitting driver",
        )
        return
    available = json.loads(said)
    if available["devices"]:
        for device in available["devices"]:
            memory = f"{device['free'] / GIB:.1f} of {device['memory'] / GIB:.1f} GiB free"
            text = f"{device['name']}: {memory}, compute {device['capability']}, driver {driver or 'unknown'}"
            if device["free"] < 4 * GIB:
                report.warn(text, "another process holds the device's memory; trainings need some 4 GiB")
            else:
                report.ok(f"{text}, torch {available['torch']} for CUDA {available['cuda']}")
    elif driver:
        text = f"there is a GPU (driver {driver}), but torch {available['torch']} cannot use it"
        report.fault(text, "install a driver for CUDA " + (available["cuda"] or "and a torch that is built for it"))
    elif wanted == "cuda":
        remedy = "give this machine or pod a GPU and its driver, or set SIGHTLINE_DEVICE to auto or cpu"
        report.fault(f"SIGHTLINE_DEVICE is cuda, and torch {available['torch']} finds no GPU", remedy)
    else:
        report.ok(f"no GPU; torch {available['torch']} computes on {counted(os.cpu_count() or 1, 'CPU')}")


async def _driver() -> str:
    """The version of NVIDIA's driver; empty if there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    status, said, _ = await _run(program, "--query-gpu=driver_version", "--format=csv,noheader")
    return said.splitlines()[0].strip() if status == 0 and said.strip() else ""


async def _run(*command: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr; status -1 on timeout."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(DEVICE_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return -1, "", f"no answer within {DEVICE_SECONDS:.0f} s"
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


async def check_memory(report: Report) -> None:
    """The limit of memory, if there is one, and shared memory, of which containers get 64 MiB by default."""
    await asyncio.to_thread(_limit, report)
    if not await asyncio.to_thread(SHARED.is_dir):
        report.ok(f"there is no {SHARED} here")
        return
    total = shutil.disk_usage(SHARED).total
    if total < GIB:
        remedy = "mount a memory volume there (an emptyDir with medium Memory, or --shm-size=1g): several GPUs need it"
        report.warn(f"{SHARED} has {total / 2**20:.0f} MiB", remedy)
    else:
        report.ok(f"{SHARED} has {total / GIB:.1f} GiB")


def _limit(report: Report) -> None:
    """What a container may use, by the files of cgroup v2 or v1."""
    limit = confinement.memory_limit()
    if not limit:
        report.ok(f"memory: all of this machine's {confinement.physical_memory() / GIB:.1f} GiB, without a limit")
        return
    used = confinement.cgroup_number("memory.current") or confinement.cgroup_number("memory/memory.usage_in_bytes")
    text = f"memory: a limit of {limit / GIB:.1f} GiB, {used / GIB:.1f} of them in use"
    if limit < WORKER_BYTES:
        remedy = f"a trainer worker needs {WORKER_BYTES // GIB} GiB or more, as the manifests have it; others need less"
        report.warn(text, remedy)
    else:
        report.ok(text)


async def check_confinement(report: Report, network: str = "auto", files: str = "auto") -> None:
    """Whether processes that read callers' data can be kept from network and files, and their memory limited."""
    status, said, _ = await _run(sys.executable, "-c", CONFINED)
    alone, limited, kept = (word == "True" for word in (said.split() if status == 0 else ["False"] * 3))
    readers = "decoders and training children"
    if not alone:
        remedy = (
            "allow user namespaces: sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0,"
            " or a seccomp profile that has unshare"
        )
        report.warn(f"{readers} share this machine's network: the system does not allow them one of their own", remedy)
    elif network == "shared" or (network == "auto" and confinement.has_gpu()):
        report.ok(
            "decoders have no network; training children keep it, by SIGHTLINE_CHILD_NETWORK or as there is a GPU"
        )
    else:
        report.ok(f"{readers} have no network")
    if not kept:
        report.warn(
            f"{readers} can read what the services' user can: the system has no Landlock",
            "use Linux 5.13 or later with Landlock among `lsm`, and a seccomp profile that allows it",
        )
    elif files == "all" or confinement.has_gpu():
        report.ok(
            "decoders open no files but the system's; training children open others, by SIGHTLINE_CHILD_FILES or as"
            " there is a GPU"
        )
    else:
        report.ok(f"{readers} open no files but their own and the system's")
    if limited:
        report.ok("their memory can be limited")
    else:
        report.warn("their memory cannot be limited by themselves", "limit the memory of the worker's container")


async def check_folders(report: Report, folders: dict[str, Path | None]) -> None:
    """Whether each folder is writable and has room; `folders` are those in the settings."""
    temporary = {"the temporary folder (TMPDIR)": Path(tempfile.gettempdir())}
    for name, folder in {**temporary, **{name: path for name, path in folders.items() if path}}.items():
        try:
            try_writing(folder)
        except OSError as error:
            report.fault(
                f"{name} {folder} cannot be written: {error}", "let the services' user write there, or choose another"
            )
            continue
        wanted = 20 * GIB if name == "SIGHTLINE_WORK_DIR" else 2 * GIB
        report.room(f"in {name} {folder}", shutil.disk_usage(folder).free, wanted, least_bytes=GIB // 4)


async def check_weights(report: Report, folder: Path | None, *, download: bool) -> None:
    """The folder's files: whether they are intact, and of which networks."""
    if folder is None:
        text = "SIGHTLINE_WEIGHTS_DIR is not set: weights come from the store"
        report.ok(f"{text}, or by download" if download else text)
        return
    if not await asyncio.to_thread(folder.is_dir):
        report.fault(f"SIGHTLINE_WEIGHTS_DIR {folder} is not a folder", "make it, or unset the variable")
        return
    files = await asyncio.to_thread(lambda: sorted(folder.glob("*.safetensors")))
    if not files:
        remedy = "put NETWORK.safetensors files there; training begins with random weights otherwise"
        report.warn(f"SIGHTLINE_WEIGHTS_DIR {folder} holds no weights", remedy)
    for file in files:
        if problem := await asyncio.to_thread(_broken, file):
            report.fault(f"{file} cannot be used: {problem}", "fetch it again, and compare its digest")
        else:
            digest = await asyncio.to_thread(file_digest, file)
            report.ok(f"weights of {file.stem}: {file.stat().st_size / 2**20:.1f} MiB, sha256 {digest[:16]}")


def _broken(file: Path) -> str:
    """What is wrong with a safetensors file, judged by its header and its length; empty if nothing is."""
    try:
        with file.open("rb") as content:
            (length,) = HEADER.unpack(content.read(HEADER.size))
            if length > MAX_HEADER_BYTES:
                return "it is not a safetensors file"
            header = json.loads(content.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        whole = HEADER.size + length + max(ends, default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"it is not a safetensors file, or cannot be read ({type(error).__name__})"
    size = file.stat().st_size
    return "" if size == whole else f"it has {counted(size, 'byte')}, where its header says {whole}"
