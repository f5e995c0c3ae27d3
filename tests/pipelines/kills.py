"""The encode job as a program of its own, for tests that kill it: `kills.py OUT CORPUS CHECKPOINT LOG [ADDRESS]`.

Decoder and model take a moment for each video, so that there is time to kill something, and LOG gets a line for every
video that goes through the model. What the workers run is defined here, in the main module: Ray sends such code along.
"""

from __future__ import annotations

import os
import sys
import time

import pyarrow as pa

from mgvr_core.config import parse
from pipelines import encode as job
from pipelines.decoding import Batch, Decode
from pipelines.encoding import Encode

PACE_S = 0.05
ROWS_PER_SHARD = 4


class SlowDecode(Decode):
    def __call__(self, table: pa.Table) -> Batch:
        time.sleep(PACE_S * len(table))
        return super().__call__(table)


class SlowEncode(Encode):
    log = ""

    def __call__(self, batch: Batch) -> Batch:
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for name in batch["id"][batch["fault"] == ""]:
            time.sleep(PACE_S)
            os.write(log, f"{name}\n".encode())  # one write a line: whole or not at all
        os.close(log)
        return super().__call__(batch)


def main(out: str, corpus: str, checkpoint: str, log: str, address: str | None = None) -> None:
    SlowEncode.log = log
    job.Decode, job.Encode = SlowDecode, SlowEncode
    values = {
        "out": out,
        "corpus": {"uri": corpus},
        "model": {"checkpoint": checkpoint},
        "features": {"rows_per_shard": ROWS_PER_SHARD, "thumbnail": 0},
        "compute": {"batch_size": 2, "threads": 1},
        "max_failure_rate": 1,
        "ray": {"address": address, "cpus": 4},
    }
    job.encode(parse(job.EncodeConfig, values, "the test"))


if __name__ == "__main__":
    main(*sys.argv[1:])
