"""The checks of `mgvr doctor`: small functions, each of which answers one question about this machine.

Libraries are imported inside the checks: one that is missing or broken is a finding, not the end of the doctor.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One answer. A problem keeps the demo from working and says what to do; a note is a limit worth knowing."""

    name: str
    state: State
    detail: str
    advice: str = ""


GIB = 2**30
RUNS = Path("runs")
DEMO_MEMORY = 6 * GIB
DEMO_DISK = 1 * GIB
RAY_TIMEOUT = 120
"""Seconds. Ray starts in under ten; what takes longer than this hangs."""

# Package -> the module whose import shows that it works.
PACKAGES = {
    "torch": "torch",
    "open_clip_torch": "open_clip",
    "ray": "ray.data",
    "pyarrow": "pyarrow.parquet",
    "av": "av",
    "faiss-cpu": "faiss",
}

# Codec -> the decoders that can read it, any of which will do.
CODECS = {
    "H.264": ("h264",),
    "MPEG-4": ("mpeg4",),
    "HEVC": ("hevc",),
    "VP8": ("vp8", "libvpx"),
    "VP9": ("vp9", "libvpx-vp9"),
    # FFmpeg's own `av1` only drives hardware: the software decoder is dav1d or aom.
    "AV1": ("libdav1d", "libaom-av1"),
    "MPEG-1": ("mpeg1video",),
    "MPEG-2": ("mpeg2video",),
    "MS-MPEG-4": ("msmpeg4",),
    "H.263": ("h263",),
    "Flash": ("flv",),
    "WMV": ("wmv3",),
    "VC-1": ("vc1",),
    "Theora": ("theora",),
    "ProRes": ("prores",),
    "MJPEG": ("mjpeg",),
}
DEMO_ENCODER, DEMO_CODEC = "libx264", "H.264"

# The weights that the method's published figures start from.
WEIGHTS = (("ViT-B-32-quickgelu", "openai"), ("ViT-B-16-quickgelu", "openai"))


def python() -> list[Finding]:
    """The interpreter."""
    return [Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")]


def packages() -> list[Finding]:
    """The libraries, by loading them: an installed one can still lack a shared library of the system."""
    findings = []
    for package, module in PACKAGES.items():
        try:
            importlib.import_module(module)
            findings.append(Finding(package, "ok", version(package)))
        except (ImportError, OSError) as error:
            findings.append(Finding(package, "problem", f"does not load: {error}", "run `make setup` in the checkout"))
    return findings


def decord() -> list[Finding]:
    """The decoder that users may choose and must not choose unawares."""
    if importlib.util.find_spec("decord") is None:
        return [Finding("decord", "note", "not installed, and not needed: PyAV is the default decoder")]
    caveat = f"{version('decord')}, not the default: it would give wrong frames of some files"
    return [Finding("decord", "note", caveat, "where it is chosen, those files are refused; they need PyAV")]


def codecs() -> list[Finding]:
    """What the default decoder can read, and whether the demo can write its videos."""
    missing = [label for label, decoders in CODECS.items() if not any(_codec(name, "r") for name in decoders)]
    readable = ", ".join(label for label in CODECS if label not in missing)
    writes = _codec(DEMO_ENCODER, "w")
    pyav = "install PyAV from the lock (`make setup`) rather than from your system"
    return [
        Finding("reads", "ok", readable or "nothing"),
        *(
            Finding(label, "problem" if label == DEMO_CODEC else "note", "this PyAV has no decoder for it", pyav)
            for label in missing
        ),
        Finding(
            "writes",
            "ok" if writes else "problem",
            DEMO_ENCODER if writes else f"this PyAV has no {DEMO_ENCODER}, with which the demo makes its videos",
            "" if writes else pyav,
        ),
    ]


def _codec(name: str, mode: Literal["r", "w"]) -> bool:
    import av.codec

    try:
        av.codec.Codec(name, mode)
    except ValueError:
        return False
    return True


def processor() -> list[Finding]:
    """The cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if cores < 2:
        return [Finding("cores", "note", f"{cores}", "the demo needs two for its eight minutes")]
    return [Finding("cores", "ok", f"{cores}")]


def memory() -> list[Finding]:
    """The machine's memory, or the container's limit where that is less."""
    total = memory_limit()
    if total < DEMO_MEMORY:
        advice = (
            f"the demo takes up to {DEMO_MEMORY / GIB:.0f} GiB: use a larger machine or raise the container's limit"
        )
        return [Finding("memory", "problem", f"{total / GIB:.1f} GiB", advice)]
    return [Finding("memory", "ok", f"{total / GIB:.1f} GiB")]


def memory_limit() -> int:
    """Bytes that this process may use at most."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.exists() and (text := limit.read_text().strip()) != "max":
            total = min(total, int(text))
    return total


def shared_memory() -> list[Finding]:
    """Where Ray keeps the objects that its processes share."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [Finding("/dev/shm", "note", "absent on this system: Ray shares objects through files")]
    size = shutil.disk_usage(folder).total
    # Ray's own default: the object store takes 30 % of the memory, and files on disk where that does not fit here.
    if size < 0.3 * memory_limit():
        advice = "Ray will share objects through the disk, slowly; in a container: --shm-size with 30 % of the memory"
        return [Finding("/dev/shm", "note", f"{size / GIB:.1f} GiB", advice)]
    return [Finding("/dev/shm", "ok", f"{size / GIB:.1f} GiB")]


def disk() -> list[Finding]:
    """Room for the run folders."""
    folder = next(place for place in (RUNS.absolute(), *RUNS.absolute().parents) if place.is_dir())
    if not os.access(folder, os.W_OK):
        return [Finding("disk", "problem", f"{folder} is not writable", "start mgvr in a folder of your own")]
    free = shutil.disk_usage(folder).free
    enough = free >= DEMO_DISK
    advice = "" if enough else f"the demo needs {DEMO_DISK / GIB:.0f} GiB under {RUNS}/: free some space"
    return [Finding("disk", "ok" if enough else "problem", f"{free / GIB:.1f} GiB free at {folder}", advice)]


def gpu() -> list[Finding]:
    """The accelerator that torch can use."""
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
        detail = f"{torch.cuda.device_count()} × {card.name}, {card.total_memory / GIB:.0f} GiB, {bf16} bf16"
        return [Finding("gpu", "ok", detail)]
    if shutil.which("nvidia-smi"):
        advice = f"this torch is built for CUDA {torch.version.cuda}: update the driver, or install a torch for yours"
        return [Finding("gpu", "note", "there is an NVIDIA driver, but torch can't use it", advice)]
    return [Finding("gpu", "note", "none: all jobs run on the CPU, encoding far more slowly than on a GPU")]


def ray_settings() -> list[Finding]:
    """What in the environment decides how Ray starts, and where the jobs go."""
    mode = os.environ.get("RAY_AUTH_MODE")
    unset = "not set: the jobs set it to disabled for a Ray of their own"
    advice = "" if mode else "on a cluster set RAY_AUTH_MODE=token, on its machines and where you submit from"
    findings = [Finding("RAY_AUTH_MODE", "ok" if mode else "note", mode or unset, advice)]
    if address := os.environ.get("RAY_ADDRESS"):
        findings.append(Finding("RAY_ADDRESS", "note", f"{address}: the jobs go to this cluster"))
    return findings


def ray_starts() -> list[Finding]:
    """Whether a Ray of our own starts here and runs a task, in a process of its own: where it fails, it can hang."""
    program = (
        "import ray; from pipelines.runtime import RayConfig, cluster\n"
        "with cluster(RayConfig()): print(ray.get(ray.remote(lambda: ray.__version__).remote()))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    advice = "look at the newest logs under ray/session_latest/logs in the folder for temporary files"
    try:
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RAY_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [Finding("starts", "problem", f"no answer within {RAY_TIMEOUT} s", advice)]
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        return [Finding("starts", "problem", said[-1], advice)]
    return [Finding("starts", "ok", "a local Ray ran a task")]


def model_names() -> list[Finding]:
    """The architectures that open_clip knows by name."""
    import open_clip

    return [Finding("names", "ok", f"{len(open_clip.list_models())} open_clip models (mgvr doctor --models)")]


def weights_here() -> list[Finding]:
    """Whether the usual pretrained weights are on this machine; asks nobody else."""
    from huggingface_hub import try_to_load_from_cache

    findings = []
    for name, tag in WEIGHTS:
        paths = [try_to_load_from_cache(repository, file) for repository, file in _hub_files(name, tag)]
        path = next((path for path in paths if isinstance(path, str)), None)
        advice = "" if path else "the demo needs none; for real videos download them, or name a weights file of yours"
        findings.append(Finding(f"{name}/{tag}", "ok" if path else "note", path or "not on this machine", advice))
    return findings


def weights_reachable() -> list[Finding]:
    """Whether the hub answers and has the usual weights: the one check that uses the network."""
    from huggingface_hub import file_exists

    findings = []
    for name, tag in WEIGHTS:
        try:
            found = any(file_exists(repository, file) for repository, file in _hub_files(name, tag))
            detail, advice = ("can be downloaded", "") if found else ("the hub does not have them", "")
        except Exception as error:  # however it fails, the answer is the same
            found, detail = False, f"the hub does not answer: {type(error).__name__}"
            advice = "download the weights elsewhere and name the file; behind a proxy set HTTPS_PROXY"
        findings.append(Finding(f"{name}/{tag}", "ok" if found else "note", detail, advice))
    return findings


def _hub_files(name: str, tag: str) -> list[tuple[str, str]]:
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository = open_clip.get_pretrained_cfg(name, tag)["hf_hub"].strip("/")
    return [(repository, HF_SAFE_WEIGHTS_NAME), (repository, HF_WEIGHTS_NAME)]
