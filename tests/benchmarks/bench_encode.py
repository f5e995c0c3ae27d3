"""mgvr encode's pipeline, the Ray Data graph itself, against its own stages and against a plain loop.

200 clips: the 72 real ones of ../shared/clips/good, where that is beside the checkout, and films of 5 to 30 s made on
the spot; 12 frames of each, to features with patches of ViT-B/32's shape by a smaller tower, which takes about as long
for a clip as decoding it does. A shard holds 64 videos, so that writing overlaps with the rest as in a long run.

On a CPU both stages want the same cores. The pipeline's time is that from the moment when every worker is up (libraries
imported, model loaded, decoders started: all wait for the last) to the last shard written, with the queues empty at the
start and drained at the end. Against it stand
  - both stages' own times: the same classes on the same clips, one stage at a time: as many decoders side by side as
    the pipeline has, then the model with as many threads;
  - a plain loop in one process: a batch is decoded by as many threads as the pipeline has decoders, in the process
    itself and so without protection from bad files, then encoded; shards are written in between.

With an encoder that sleeps as long as a GPU would work, batches of 32, and one core left to all that is neither decoder
nor GPU (as DecodingConfig.plan leaves two on a larger machine), the pipeline's rate is that at which videos leave the
encoder once its first batch is through, so that neither filling nor draining counts; against the slower stage's own:
decoders that never wait, or an encoder that only sleeps. The same with a decoder on every core is printed for
comparison: there the writer and Ray itself take their time from the decoders.

What starting takes of a run is printed too: of this short one, against a run that is all start-up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from mgvr_core.config import parse
from mgvr_core.features.store import FeatureStore
from mgvr_core.video.decoders import MAX_PIXELS, Clip, Request, load
from pipelines import encode as job
from pipelines.decoding import Batch, Decode
from pipelines.encode import EncodeConfig
from pipelines.encoding import Encode
from pipelines.models import FeatureMaker, feature_maker
from pipelines.progress import Silent
from pipelines.runtime import RayConfig, available_cores, cluster
from pipelines.writing import Write

GOOD = (Path(__file__).resolve().parents[2] / ".." / "shared" / "clips" / "good").resolve()
CLIPS, ROWS_PER_SHARD, THUMBNAIL, ROUNDS, GPU_BATCH = 200, 64, 160, 2, 32
MODEL = {
    "architecture": {
        "embed_dim": 512,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 384, "head_width": 64, "layers": 4},
        "text_cfg": {"context_length": 32, "width": 128, "heads": 2, "layers": 1},
    }
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Clips(NamedTuple):
    rows: pa.Table
    described: str


def make_clips(film, random: np.random.Generator) -> Clips:
    """In an order that mixes long and short ones."""
    real = sorted(path for path in GOOD.iterdir() if path.suffix != ".csv") if GOOD.is_dir() else []
    made = [film(f"{number}.mp4", int(random.integers(5, 31))) for number in range(CLIPS - len(real))]
    uris = random.permutation([str(path) for path in (*real, *made)]).tolist()
    nothing = pa.nulls(CLIPS, pa.float64())
    columns = {"id": [str(number) for number in range(CLIPS)], "uri": uris, "content_hash": ["0"] * CLIPS}
    return Clips(pa.table({**columns, "start": nothing, "end": nothing}), f"{len(real)} real clips, {len(made)} films")


class Bench:
    """The parts of one job and the clips, and what each arrangement of them takes."""

    def __init__(self, rows: pa.Table, folder: Path, **settings: Any) -> None:
        self.config: EncodeConfig = parse(
            EncodeConfig,
            {
                "out": str(folder),
                "corpus": {"uri": str(folder)},
                "model": MODEL,
                "sampling": {"strategy": "uniform", "frames": 12},
                "features": {"rows_per_shard": ROWS_PER_SHARD, "thumbnail": THUMBNAIL},
                **settings,
            },
            source="the benchmark",
        )
        compute = self.config.compute
        self.rows, self.folder = rows, folder
        self.maker: FeatureMaker = feature_maker(
            self.config.model, self.config.sampling, self.config.decoding.version(), patches=True, compute=compute
        )
        self.decoders, self.block = self.config.decoding.plan(len(rows), self.config.ray.stall_s)

    def decode_arguments(self, counter: Any) -> tuple[Any, ...]:
        return self.config.decoding, self.maker.sampling, self.maker.image_size, THUMBNAIL, counter

    def decode_alone(self, skip: int = 0) -> float:
        """Seconds of all decoders side by side, for all clips but the first `skip`; nothing is handed on."""

        class Alone(Decode):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self._sandbox.version()  # starts the child

            def drop(self, table: pa.Table) -> int:
                return len(self(table)["id"])

        workers = [ray.remote(Alone).remote(*self.decode_arguments(Silent())) for _ in range(self.decoders)]
        ray.get([worker.__ray_ready__.remote() for worker in workers])
        # Two at a time: the last block of one decoder must not be waited for by the others.
        blocks = [self.rows.slice(begin, 2) for begin in range(skip, len(self.rows), 2)]
        began = time.monotonic()
        done = ray.util.ActorPool(workers).map_unordered(lambda worker, block: worker.drop.remote(block), blocks)
        assert sum(done) == len(self.rows) - skip
        seconds = time.monotonic() - began
        for worker in workers:
            ray.kill(worker)
        return seconds

    def plain_loop(self, encode: Encode) -> tuple[float, float]:
        """Seconds of the loop, and those of them in the model."""
        decode, size = InProcess(*self.decode_arguments(Silent())), self.config.compute.videos_at_once
        place = str(self.folder / f"plain-{time.monotonic_ns()}")
        write = Write(place, "clips", self.maker.shape, self.maker.fingerprint, "pyav", "plain", Silent())
        waiting: list[Batch] = []
        encoding = 0.0
        began = time.monotonic()
        with ThreadPoolExecutor(self.decoders) as pool:
            for begin in range(0, len(self.rows), size):
                singles = [self.rows.slice(row, 1) for row in range(begin, min(begin + size, len(self.rows)))]
                batch = joined(list(pool.map(decode, singles)))
                before = time.monotonic()
                waiting.append(encode(batch))
                encoding += time.monotonic() - before
                if len(waiting) * size >= ROWS_PER_SHARD:
                    write(joined(waiting))
                    waiting = []
        if waiting:
            write(joined(waiting))
        return time.monotonic() - began, encoding

    def pipeline(self, patch: pytest.MonkeyPatch, encoder: type = Encode) -> Run:
        """The job's own graph, with stages that report to a watch."""
        watch = ray.remote(num_cpus=0)(Watch).remote(self.decoders + 2)
        with patch.context() as patched:
            for name, stage in watched(encoder).items():
                patched.setattr(job, name, stage)
            began = time.monotonic()
            url = str(self.folder / f"pipeline-{time.monotonic_ns()}")
            for _ in job.pipeline(self.config, self.maker, url, "clips", self.rows, watch).iter_rows():
                pass
            ended = time.monotonic()
        notes: list[tuple[str, int, float]] = ray.get(watch.read.remote())
        opened = min(at for stage, _, at in notes if stage == "open")
        left = sorted((at, videos) for stage, videos, at in notes if stage == "encoded")
        assert sum(videos for _, videos in left) == len(self.rows)
        after_first = sum(videos for _, videos in left[1:])
        return Run(
            whole=ended - began,
            up=max(at for stage, _, at in notes if stage == "written") - opened,
            rate=after_first / (left[-1][0] - left[0][0]),
            features=url,
        )


class Run(NamedTuple):
    whole: float
    """Seconds, the start of the workers included."""
    up: float
    """Seconds from the moment when all are up to the last shard."""
    rate: float
    """Videos a second at the encoder's exit, once the first batch is through."""
    features: str
    """Where they lie."""


class InProcess(Decode):
    """The same rows without a child process. Can be called by several threads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sandbox: Any = self  # it has the methods that are called
        self._read, self._own_version = load("pyav")

    def version(self) -> str:
        return self._own_version

    def decode(self, request: Request) -> Clip:
        clip = self._read(request, MAX_PIXELS)
        clip.decoder = "pyav"
        return clip


class Watch:
    """Stands in for the job's counter: knows when all workers are up, and notes when videos pass."""

    def __init__(self, workers: int) -> None:
        self._missing = workers
        self._notes: list[tuple[str, int, float]] = []

    def add(self, name: str, number: int) -> None:
        pass

    def measure(self, *measures: object) -> None:
        pass

    def arrive(self) -> None:
        self._missing -= 1

    def missing(self) -> int:
        return self._missing

    def note(self, stage: str, videos: int, at: float) -> None:
        self._notes.append((stage, videos, at))

    def read(self) -> list[tuple[str, int, float]]:
        return self._notes


def watched(encoder: type) -> dict[str, type]:
    """The three stages, as they are but for what they tell the watch. Made in a function, so that Ray carries their
    code to workers that can't import this file.
    """

    class Gate(Decode):
        is_open = False

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._sandbox.version()  # starts the child
            self._counter.arrive.remote()

        def __call__(self, table: pa.Table) -> Batch:
            if not self.is_open:
                while ray.get(self._counter.missing.remote()):
                    time.sleep(0.01)
                self._counter.note.remote("open", 0, time.monotonic())
                self.is_open = True
            return super().__call__(table)

    class Model(encoder):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._counter.arrive.remote()

        def __call__(self, batch: Batch) -> Batch:
            made: Batch = super().__call__(batch)
            self._counter.note.remote("encoded", len(made["id"]), time.monotonic())
            return made

    class Writer(Write):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._counter.arrive.remote()

        def __call__(self, batch: Batch) -> Batch:
            record = super().__call__(batch)
            self._counter.note.remote("written", len(batch["id"]), time.monotonic())
            return record

    return {"Decode": Gate, "Encode": Model, "Write": Writer}


def sleeping(seconds: float) -> type:
    """An encoder that takes so long for a video and no CPU."""

    class Sleeping:
        def __init__(self, model: Any, expected: Any, compute: Any, shape: Any, counter: Any) -> None:
            self._counter = counter
            F, D, P = shape.frames, shape.dim, shape.patches
            self._shapes = {
                "video": (D,),
                "frames": (F, D),
                "frame_norms": (F,),
                "temporal": (F, D),
                "patches": (F, P, D),
            }

        def __call__(self, batch: Batch) -> Batch:
            time.sleep(seconds * len(batch.pop("pixels")))
            return {
                **batch,
                **{name: np.zeros((len(batch["id"]), *of), np.float16) for name, of in self._shapes.items()},
            }

    return Sleeping


def joined(batches: list[Batch]) -> Batch:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def kib_a_video(url: str) -> tuple[float, float]:
    """In Parquet, with patches and without."""
    store = FeatureStore(url)
    sizes = []
    for entry in store.storage.entries("shards"):
        bare = store.write_shard(store.storage.read_table(entry.name).drop_columns(["patches"]))
        sizes.append((entry.bytes, bare.bytes))
    whole, bare = (sum(column) / CLIPS / 1024 for column in zip(*sizes, strict=True))
    return whole, bare


def told(what: str, ratio: float, target: str) -> None:
    print(f"  {what}: {ratio:.2f}{f' (target: {target})' if target else ''}; load {os.getloadavg()[0]:.1f}", flush=True)


def test_the_pipeline_against_its_parts(film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, described = make_clips(film, np.random.default_rng(0))
    cores = available_cores()
    print(f"\n{described}; {cores} cores")
    with cluster(RayConfig()):
        on_cpu(Bench(rows, tmp_path), monkeypatch)
        for decoders, target in ((max(1, cores - 1), ">= 0.90"), (cores, "")):
            beside_a_gpu(rows, tmp_path, decoders, target, monkeypatch)


def on_cpu(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    encode = Encode(
        bench.config.model, bench.maker.fingerprint, bench.config.compute.resolved(), bench.maker.shape, Silent()
    )
    print(f"on a CPU: {bench.decoders} decoders, a model with {torch.get_num_threads()} threads")
    # In turns, and the shortest of each: whatever else the machine does only ever adds.
    rounds = [(bench.plain_loop(encode), bench.decode_alone(), bench.pipeline(patch)) for _ in range(ROUNDS)]
    plain = min(seconds for (seconds, _), _, _ in rounds)
    model = min(seconds for (_, seconds), _, _ in rounds)
    decode = min(seconds for _, seconds, _ in rounds)
    run = min((run for _, _, run in rounds), key=lambda run: run.up)
    told("pipeline's time / both stages' own times", run.up / (decode + model), "<= 1.15")
    told("plain loop's time / pipeline's time", plain / run.up, ">= 0.90")
    told("start of the workers / whole run", 1 - run.up / run.whole, "")
    print("  KiB a video: {:.1f} with patches, {:.1f} without".format(*kib_a_video(run.features)))


def beside_a_gpu(rows: pa.Table, folder: Path, decoders: int, target: str, patch: pytest.MonkeyPatch) -> None:
    print(f"beside a GPU: {decoders} decoders")
    bench = Bench(rows, folder, decoding={"workers": decoders}, compute={"batch_size": GPU_BATCH})
    # As above: in turns, and the best of each. An encoder's own rate is what it is told to sleep.
    decoding: list[float] = []
    runs: dict[str, list[tuple[float, Run]]] = {"decode": [], "encode": []}
    for _ in range(ROUNDS):
        # Of the clips whose rate is measured: those of the first batch may be longer or shorter.
        decoding.append(bench.decode_alone(skip=GPU_BATCH) / (CLIPS - GPU_BATCH))
        for bound, faster in (("decode", 0.5), ("encode", 2.0)):
            sleep = faster * decoding[-1]
            runs[bound].append((sleep, bench.pipeline(patch, sleeping(sleep))))
    for bound, both in runs.items():
        own = [min(decoding) if bound == "decode" else sleep for sleep, _ in both]
        ratio, run = max((run.rate * seconds, run) for seconds, (_, run) in zip(own, both, strict=True))
        told(f"{bound}-bound: pipeline's rate / slower stage's own", ratio, target)
        told(f"{bound}-bound: start and first batch / whole run", 1 - CLIPS / run.rate / run.whole, "")
