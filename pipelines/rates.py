"""How fast an encode run was, what held it back, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STAGES = ("decode", "encode", "write")


@dataclass(frozen=True)
class Rates:
    """What a run measured of itself. Without a pipeline (nothing to encode) it has its start and its price alone."""

    began: float
    """time.monotonic() at the start of the job."""
    price_per_hour: float | None = None
    """Of the machines, in the user's currency."""
    seconds: float = 0.0
    """Of the pipeline: from the first block handed out to the last shard written, the start of its workers included."""
    tried: int = 0
    """Videos that went through the pipeline."""
    workers: Mapping[str, int] = field(default_factory=dict)
    """By stage."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Sums over all workers: decode_s, encode_s, write_s (seconds at work), video_s (length of the decoded videos)."""

    @property
    def stages(self) -> dict[str, float]:
        """Videos a second that each stage makes while all its workers are at work: what it would make if it never
        waited for another, on cores as busy as they were.
        """
        busy = {name: self.measures.get(f"{name}_s", 0.0) for name in STAGES}
        return {name: self.workers[name] * self.tried / seconds for name, seconds in busy.items() if seconds > 0}

    @property
    def bound(self) -> str | None:
        """The slowest stage; None where the measures are lost."""
        stages = self.stages
        return min(stages, key=stages.__getitem__, default=None)

    def cost(self, seconds: float) -> float | None:
        """Of so many seconds; None without a price."""
        return None if self.price_per_hour is None else seconds / 3600 * self.price_per_hour

    def record(self, encoded: int, bytes_per_video: float) -> dict[str, Any]:
        """For the snapshot: machine-readable, sizes in bytes, times in seconds."""
        whole = time.monotonic() - self.began
        values: dict[str, Any] = {"encoded": encoded, "tried": self.tried, "seconds": round(whole, 3)}
        if self.price_per_hour is not None:
            values["cost"] = self.cost(whole)
        if not self.tried:
            return values
        return values | {
            "pipeline_seconds": round(self.seconds, 3),
            "seconds_per_video": round(whole / self.tried, 6),
            "bytes_per_video": round(bytes_per_video, 1),
            "videos_per_second": round(self.tried / self.seconds, 3),
            "video_hours_per_hour": round(self.measures.get("video_s", 0.0) / self.seconds, 3),
            **{f"{name}_videos_per_second": round(rate, 6) for name, rate in self.stages.items()},
            "bound": self.bound,
            "peak_bytes": int(self.measures.get("peak_bytes", 0)),
            **{name: round(value, 3) for name, value in self.measures.items() if name.endswith("_s")},
        }


def rate_rows(rates: Rates) -> dict[str, str]:
    """The same as lines of the summary."""
    whole = time.monotonic() - rates.began
    rows = {"time": f"{whole:.1f} s"}
    if rates.tried:
        hours = rates.measures.get("video_s", 0.0) / rates.seconds
        rows["rate"] = f"{rates.tried / rates.seconds:.1f} videos/s, {hours:.1f} video-hours an hour"
    if rates.bound:
        each = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.stages.items())
        rows["bound"] = f"{rates.bound}-bound: videos/s of each stage while it is at work: {each}"
        rows["memory"] = f"{rates.measures.get('peak_bytes', 0) / 2**30:.1f} GiB at most in the workers"
    cost = rates.cost(whole)
    if cost is not None:
        rows["cost"] = f"{cost:.2f} (at {rates.price_per_hour:g} an hour)"
    return rows
