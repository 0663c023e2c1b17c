"""Opens ONNX Runtime sessions: threads, memory, providers, and the cache of optimised graphs.

What was measured on the CPU (one thread, EPYC, medians, hashing the cached file included):
- Loading an optimised graph is faster where optimising is most of the work, and not where weights are: 6,000 small
  nodes 236 → 135 ms, PP-OCRv4 recognition 64 → 50 ms, its detection 53 → 47 ms, MiniLM int8 106 → 127 ms, 64 MB of
  weights in 4 layers 24 → 60 ms. So it is tried for loads over `CACHE_FROM_S`, and kept only when it is faster here.
- The arena never gives memory back: one request of 200,000 rows left 400 MB behind. Without an arena, or shrunk after
  every run, big batches take 12 % longer; small ones do not care. Batches are bounded, so the arena stays, and a
  `memory` limit caps it: a request that does not fit then fails alone instead of taking the process with it.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import onnxruntime as ort

from adapters.model_folder import file_sha256, read_tree
from adapters.onnx.graph_cache import MAX_MODEL_BYTES, GraphCache, cpu_features, graph_key
from adapters.onnx.options import CpuSettings, OnnxOptions
from adapters.onnx.providers import CPU
from adapters.onnx.words import plain_words
from router.domain.errors import ModelUnavailable

log = logging.getLogger(__name__)

CACHE_FROM_S = 0.1

_FATAL = 4  # what fails is raised; ONNX Runtime need not print it as well, once for every bad request

# The name of a field of tensors whose values are in a file beside the model. An optimised graph in another folder would
# not find them.
_EXTERNAL_DATA = b"location"

# Running a session is thread-safe, creating one is not.
_creating = threading.Lock()

# ONNX Runtime's allocators belong to the process: what the first model asks for holds.
_capped: list[int] = []


def verify(path: Path, sha256: str, folder: str) -> str:
    """What stands for the graph at `path` and all that it reads, as 64 hex digits.

    Raises `ModelUnavailable` when it is not what was deployed.

    `folder`: the model's own folder, whose files together have the digest `sha256`; empty: the file alone has.
    """
    if folder:
        tree = read_tree(Path(folder))
        if tree.digest != sha256:
            raise ModelUnavailable(
                f"the model is not what was deployed: its digest is {tree.digest}, expected {sha256}"
            )
        inside = path.relative_to(folder).as_posix()
        if inside not in (file.path for file in tree.files):
            raise ModelUnavailable("the model has several files, and none was chosen: name one after a '#'")
        return sha256 if len(tree.files) == 1 else hashlib.sha256(f"{sha256} {inside}".encode()).hexdigest()
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ModelUnavailable(f"model file {path.name!r} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise ModelUnavailable(f"model file {path.name!r} is not what was deployed: sha256 {found}, expected {sha256}")
    return found


def open_session(path: Path, settings: ort.SessionOptions, providers: Sequence[Any]) -> ort.InferenceSession:
    """Raises `ModelUnavailable` with ONNX Runtime's words."""
    with _creating:
        try:
            # Its own fallback would print to stdout and start a session on the CPU.
            session = ort.InferenceSession(str(path), settings, providers=list(providers), enable_fallback=0)
        except Exception as error:
            raise ModelUnavailable(f"model file {path.name!r} did not load: {plain_words(error, path)}") from error
    session.disable_fallback()  # or a failing GPU run would quietly move the model to the CPU
    return session


def open_cpu_session(options: OnnxOptions) -> ort.InferenceSession:
    """From the cache of optimised graphs where that is faster. Raises `ModelUnavailable`."""
    path, cpu = Path(options.path), options.cpu
    is_capped = cpu.memory_bytes > 0 and cap_arena(cpu.memory_bytes, cpu.sessions * path.stat().st_size)
    plain = session_settings(cpu, is_capped)
    if not options.cache_dir:
        return open_session(path, plain, [CPU])
    cache = GraphCache(Path(options.cache_dir, "graphs"))
    key = cache_key(options)
    if kept := cache.find(key):
        try:
            return open_kept(kept, cpu, is_capped)
        except ModelUnavailable as error:
            log.warning("a cached graph is no good and is made again", extra={"reason": str(error)})
            cache.drop(kept)
    started = perf_counter()
    session = open_session(path, plain, [CPU])
    took_s = perf_counter() - started
    if took_s >= CACHE_FROM_S and not cache.is_known_not_to_pay(key):
        _keep_if_faster(cache, key, options, is_capped, took_s)
    return session


def cache_key(options: OnnxOptions) -> str:
    runtime = f"{ort.__version__} {ort.get_build_info()}"
    return graph_key(options.sha256, runtime, {"providers": [CPU], "optimisation": "all"}, cpu_features())


def keep_optimised(cache: GraphCache, key: str, path: Path, cpu: CpuSettings) -> Path | None:
    """Write the optimised graph of `path` into the cache. None when that cannot be done."""
    if not _may_be_cached(path):
        return None

    def write(target: Path) -> None:
        saving = session_settings(cpu, is_capped=False)
        saving.optimized_model_filepath = str(target)
        open_session(path, saving, [CPU])

    return cache.make(key, write)


def open_kept(kept: Path, cpu: CpuSettings, is_capped: bool) -> ort.InferenceSession:
    """A session of a graph that needs no more optimising. Raises `ModelUnavailable`."""
    settings = session_settings(cpu, is_capped)
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(kept, settings, [CPU])


def session_settings(cpu: CpuSettings, is_capped: bool) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    # The default is every core of the machine, for every session, busy-waiting: with little traffic, 1.1 cores burnt
    # where 0.16 do the work, to answer in 1.0 ms instead of 1.7.
    settings.intra_op_num_threads = cpu.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if cpu.is_spinning else "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if is_capped:
        settings.add_session_config_entry("session.use_env_allocators", "1")
    settings.log_severity_level = _FATAL
    return settings


def cap_arena(memory_bytes: int, weights_bytes: int) -> bool:
    """Let all sessions of this process together compute in what it does not use yet of `memory_bytes`. False: no room.

    Weights are not in the arena, but will be in memory soon.
    """
    with _creating:
        if not _capped:
            room = memory_bytes - _resident_bytes() - weights_bytes
            if room <= 0:
                log.warning("the memory limit is used up before a model is loaded", extra={"limit": memory_bytes})
                return False
            info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
            ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": room, "arena_extend_strategy": 1}))
            _capped.append(room)
        return True


def _keep_if_faster(cache: GraphCache, key: str, options: OnnxOptions, is_capped: bool, took_s: float) -> None:
    if keep_optimised(cache, key, Path(options.path), options.cpu) is None:
        return
    started = perf_counter()
    kept = cache.find(key)
    if kept is None:
        return
    try:
        open_kept(kept, options.cpu, is_capped)
    except ModelUnavailable as error:
        log.warning("an optimised graph does not load", extra={"reason": str(error)})
        cache.remember_not_to_pay(key, kept)
        return
    cached_s = perf_counter() - started
    log.info("optimised graph", extra={"plain_s": round(took_s, 3), "cached_s": round(cached_s, 3)})
    if cached_s >= took_s:
        cache.remember_not_to_pay(key, kept)


def _may_be_cached(path: Path) -> bool:
    if path.stat().st_size > MAX_MODEL_BYTES:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_EXTERNAL_DATA) < 0


def _resident_bytes() -> int:
    """What this process has in memory now; 0 where /proc does not say."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
