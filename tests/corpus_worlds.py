"""Corpora as a plan sees them, in a few words, and a feature set that encodes them: for the tests of plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from mgvr_core.corpus.files import Look, Trouble
from mgvr_core.corpus.plan import Comparison, Content, Listed, Plan, compare, decide, placed
from mgvr_core.features.contents import Change, Contents, Failure, Key, Place, ShardInfo, Source, fold, require_known

NOW = "2026-01-02T03:04:05+00:00"


class File(NamedTuple):
    """A listed video as the world has it."""

    text: str = "a"
    """What it holds. Texts that begin with `bad` can't be decoded."""
    mtime: int = 1
    look: str = ""
    """The trouble with looking at it, if any."""
    read: str = ""
    """The trouble with reading it, if any."""
    id: str | None = None
    """The user's."""
    start: float | None = None
    end: float | None = None


World = Mapping[str, File]


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def trouble(kind: str, uri: str) -> Trouble:
    return Trouble(kind, f"{uri}: {kind}")


@dataclass
class Set:
    """A feature set as far as plans go, with an encoder that writes down what each row was made of."""

    head: Contents = field(default_factory=Contents)
    rows: dict[Place, tuple[str | None, str | None]] = field(default_factory=dict)
    runs: int = 0

    def compare(self, world: World, corpus: str = "A", retry: Iterable[str] = ()) -> Comparison:
        def look(uri: str, file: File) -> Look | Trouble:
            return trouble(file.look, uri) if file.look else Look(len(file.text), f"mtime:{file.text}{file.mtime}")

        kinds = set(retry)
        listed = [
            Listed(Key(corpus, uri, file.start, file.end), file.id, look(uri, file)) for uri, file in world.items()
        ]
        return compare(listed, self.head, corpus, lambda failure: failure.kind in kinds)

    def plan(self, world: World, corpus: str = "A", retry: Iterable[str] = ()) -> Plan:
        compared = self.compare(world, corpus, retry)
        read = {
            uri: Content(trouble(world[uri].read, uri) if world[uri].read else digest(world[uri].text))
            for uri in compared.uris_to_read
        }
        return decide(compared, read, NOW)

    def run(self, world: World, corpus: str = "A", retry: Iterable[str] = ()) -> Plan:
        """Plan, encode and commit, as the encode job does."""
        plan = self.plan(world, corpus, retry)
        self.runs += 1
        shard = f"shards/{self.runs}"
        places: dict[tuple[str, str], Place] = {}
        failures = {key: failure for (source, failure) in plan.unreadable for key in (source.key,)}
        for source in plan.encode:
            if world[source.key.uri].text.startswith("bad"):
                for each in (source, *plan.shared.get(str(source.id), ())):
                    failures[each.key] = Failure(each.key, each.id, "decode", "corrupt", "no", 1, "pyav", NOW)
            else:
                place = Place(shard, len(places))
                places[str(source.id), str(source.content_hash)] = place
                self.rows[place] = (source.id, source.content_hash)
        change = Change(
            sources=placed(plan, places, failures),
            gone=plan.gone,
            failures=list(failures.values()),
            shards=(*plan.shards, ShardInfo(shard, len(places), 1, "0" * 64)),
        )
        self.head = fold(self.head, change)
        require_known(self.head)
        return plan

    def source(self, uri: str, corpus: str = "A") -> Source:
        (found,) = [s for key, s in self.head.sources.items() if (key.corpus, key.uri) == (corpus, uri)]
        return found


def counted(plan: Plan) -> dict[str, int]:
    return {name: count for name, count in plan.counts.items() if count}


def uris(sources: Iterable[Source]) -> list[str]:
    return [source.key.uri for source in sources]


def made(*worlds: World) -> Set:
    made = Set()
    for world in worlds:
        made.run(world)
    return made
