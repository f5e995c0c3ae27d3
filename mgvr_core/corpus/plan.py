"""What is to be done to bring a feature set in line with its corpus: the listing against the set.

Two steps, because only some files need reading. `compare` tells by (uri, size, time of change or etag) which listed
videos are as the set has them; `decide` is given the content hashes of the others and tells new from changed, moved
and duplicate. Each listed video, and each that is listed no more, is counted once.

    unchanged    as the set has it (also where only the time of change is another)
    new          to be encoded: its content is not in the set
    changed      to be encoded: the file was in the set with other content, or under another id
    retried      to be encoded: it failed before
    moved        its features stay: the same content was listed under a uri that is gone
    duplicate    its features are those of another uri with the same content
    failed       it failed before, is still the same, and would fail again
    unreadable   it can't be read, and has no features
    unreachable  it can't be read now; its features of an earlier run stay
    deleted      listed no more
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mgvr_core.corpus.files import Look, Trouble
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.contents import Contents, Failure, Key, Place, ShardInfo, Source, id_clash
from mgvr_core.uris import fragment
from mgvr_core.video.decoders import TRANSIENT, Fault

CATEGORIES = (
    *("new", "changed", "retried", "moved", "duplicate", "deleted"),
    *("unchanged", "failed", "unreadable", "unreachable"),
)
_HIDDEN: frozenset[Fault] = TRANSIENT | {"missing"}
"""Troubles with reading that tell nothing of what a file holds: it may be what it was."""
_ID_DIGITS = 32
"""Hex digits of an id made from a content hash: 128 bits."""


class Listed(NamedTuple):
    """One video of the corpus as it is listed now."""

    key: Key
    id: str | None
    look: Look | Trouble
    attempts: int = 1
    """Times it was looked at."""


class Content(NamedTuple):
    """What reading a file told."""

    outcome: str | Trouble
    """Its content hash, or why there is none."""
    attempts: int = 1


@dataclass(frozen=True)
class Comparison:
    """The listing against the set, before any file is read."""

    corpus: str
    head: Contents
    unchanged: int
    failed: int
    to_read: tuple[Listed, ...]
    """Videos whose content must be known: new ones, those that look different, and those that are tried again."""
    gone: tuple[Source, ...]
    """Listed no more; or, from a set whose corpora had no names, listed under a name now."""

    @property
    def uris_to_read(self) -> list[str]:
        """The files whose content must be known, each once."""
        return list(dict.fromkeys(v.key.uri for v in self.to_read if isinstance(v.look, Look)))


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    corpus: str
    counts: Mapping[str, int]
    """Videos of each of CATEGORIES."""
    encode: tuple[Source, ...]
    """One for each content to be encoded."""
    shared: Mapping[str, tuple[Source, ...]]
    """By id: the other listed uris of a content to be encoded."""
    settled: tuple[Source, ...]
    """Changed in the listing alone: moved, duplicates of what the set has, touched."""
    unreadable: tuple[tuple[Source, Failure], ...]
    gone: tuple[Source, ...]
    shards: tuple[ShardInfo, ...]
    """Those that a place in `settled` may point into."""
    bytes: int
    """Of the files to be encoded."""
    known: int
    """Videos that the set has of this corpus now."""
    others: tuple[str, ...]
    """The other corpora of the set, which stay as they are."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do at all."""
        return not (self.encode or self.settled or self.unreadable or self.gone)


def compare(listed: Iterable[Listed], head: Contents, corpus: str, retry: Callable[[Failure], bool]) -> Comparison:
    """Tell apart what is as it was, what must be read, and what is gone. `retry` picks the failures tried again."""
    # A set written before corpora had names in it: its videos are taken to be this one's.
    sources = {
        (key if key.corpus else key._replace(corpus=corpus)): source
        for key, source in head.sources.items()
        if key.corpus in (corpus, "")
    }
    unchanged = failed = 0
    to_read = []
    seen = set()
    for video in listed:
        seen.add(video.key)
        known = sources.get(video.key)
        if known is None or not _looks_the_same(video, known, head.failures):
            to_read.append(video)
        elif known.place:
            unchanged += 1
        elif retry(head.failures[known.key]):
            to_read.append(video)
        else:
            failed += 1
    gone = tuple(source for key, source in sources.items() if key not in seen or key != source.key)
    return Comparison(corpus, head, unchanged, failed, tuple(to_read), gone)


def failed_before(head: Contents, corpus: str) -> list[tuple[Key, str | None]]:
    """The videos of a corpus that have no features, each with the id that the user gave it, if any."""
    found = []
    for key in head.failures:
        source = head.sources.get(key)
        if source is not None and key.corpus == corpus:
            found.append((key, None if source.id == _id_of_content(source) else source.id))
    return found


def decide(compared: Comparison, contents: Mapping[str, Content], now: str) -> Plan:
    """The plan, from the contents of all of `compared.uris_to_read`. `now` is written into new failures.

    Raises MgvrError where an id of the user's stands for two contents.
    """
    head, corpus = compared.head, compared.corpus
    before = {video.key: _before(video, head) for video in compared.to_read}
    outcomes = {video.key: _content(video, contents) for video in compared.to_read}
    unreachable = {video.key for video in compared.to_read if _stays(video, before[video.key], outcomes[video.key])}
    # From a set without corpora's names, what is listed is not gone: it gets its corpus's name.
    gone = {source.key for source in compared.gone if source.key._replace(corpus=corpus) not in outcomes}
    away = {source.key for source in compared.gone} | (outcomes.keys() - unreachable)
    owners, left = _owners(head, away, gone)
    counts = Counter(unchanged=compared.unchanged, failed=compared.failed, unreachable=len(unreachable))
    encode: dict[str, Source] = {}
    shared: dict[str, list[Source]] = {}
    settled, unreadable = [], []
    for video in compared.to_read:
        known, content = before[video.key], outcomes[video.key]
        source = _as_source(video)
        if video.key in unreachable:
            if known is not None and known.key != video.key:
                settled.append(replace(known, key=video.key))
            continue
        if isinstance(content.outcome, Trouble):
            kind, message = content.outcome
            failure = Failure(video.key, source.id, "read", kind, message, content.attempts, "", now)
            counts["unreadable"] += 1
            unreadable.append((source, failure.after(head.failures.get(video.key))))
            continue
        name = video.id or content_id(content.outcome, video.key)
        source = replace(source, id=name, content_hash=content.outcome)
        owner, first = owners.get(name), encode.get(name)
        if owner is not None and owner.content_hash == source.content_hash:
            settled.append(replace(source, place=owner.place))
            if known is not None and known.place and (known.id, known.content_hash) == (name, source.content_hash):
                counts["unchanged"] += 1
            elif left[name]:
                left[name] -= 1
                counts["moved"] += 1
            else:
                counts["duplicate"] += 1
            continue
        if owner is not None and owner.key not in away:
            raise MgvrError(id_clash(source, owner))
        if first is not None and first.content_hash != source.content_hash:
            raise MgvrError(id_clash(source, first))
        if first is not None:
            shared.setdefault(name, []).append(source)
            counts["duplicate"] += 1
            continue
        encode[name] = source
        counts["new" if known is None else "changed" if known.place or _other(known, source) else "retried"] += 1
    counts["deleted"] = len(gone) - counts["moved"]
    corpora = Counter(key.corpus for key in head.sources)
    return Plan(
        corpus=corpus,
        counts={name: counts[name] for name in CATEGORIES},
        encode=tuple(encode.values()),
        shared={name: tuple(sources) for name, sources in shared.items()},
        settled=tuple(settled),
        unreadable=tuple(unreadable),
        gone=compared.gone,
        shards=head.shards,
        bytes=sum(source.size or 0 for source in encode.values()),
        known=corpora[corpus] + corpora[""],
        others=tuple(sorted(corpora.keys() - {corpus, ""})),
    )


def _owners(
    head: Contents, away: Collection[Key], gone: Collection[Key]
) -> tuple[dict[str | None, Source], Counter[str | None]]:
    """By id: a source that has its features, if there is one that does not go away or change; and how many are gone,
    of which a new one may be the continuation.
    """
    owners: dict[str | None, Source] = {}
    left: Counter[str | None] = Counter()
    for source in head.sources.values():
        if not source.place:
            continue
        owner = owners.setdefault(source.id, source)
        if owner.key in away and source.key not in away:
            owners[source.id] = source
        if source.key in gone:
            left[source.id] += 1
    return owners, left


def content_id(content_hash: str, key: Key) -> str:
    """The id of a video that the user gave none: its content hash, with a segment's times as a media fragment."""
    return content_hash[:_ID_DIGITS] + fragment(key.start, key.end)


def _looks_the_same(video: Listed, known: Source, failures: Mapping[Key, Failure]) -> bool:
    if known.id != (video.id or _id_of_content(known)):
        return False
    if isinstance(video.look, Trouble):
        return known.place is None and known.key in failures and failures[known.key].kind == video.look.kind
    return (known.size, known.version) == video.look


def _id_of_content(source: Source) -> str | None:
    return None if source.content_hash is None else content_id(source.content_hash, source.key)


def _before(video: Listed, head: Contents) -> Source | None:
    return head.sources.get(video.key) or head.sources.get(video.key._replace(corpus=""))


def _stays(video: Listed, known: Source | None, content: Content) -> bool:
    """Whether a video's features stay although it can't be read: what it holds now is not known."""
    if known is None or known.place is None or not isinstance(content.outcome, Trouble):
        return False
    return isinstance(video.look, Trouble) or content.outcome.kind in _HIDDEN


def _content(video: Listed, contents: Mapping[str, Content]) -> Content:
    return Content(video.look, video.attempts) if isinstance(video.look, Trouble) else contents[video.key.uri]


def _as_source(video: Listed) -> Source:
    size, version = (None, None) if isinstance(video.look, Trouble) else video.look
    return Source(video.key, video.id, None, size, version)


def _other(before: Source, now: Source) -> bool:
    return before.content_hash is not None and before.content_hash != now.content_hash


def placed(plan: Plan, places: Mapping[tuple[str, str], Place], failures: Mapping[Key, Failure]) -> Sequence[Source]:
    """The sources of the plan as they are once the work is done: where their features are.

    `places` by id and content hash; a source whose content failed has none. Raises JobError for a video that came out
    neither encoded nor failed: nothing is lost without a word.
    """
    done = list(plan.settled) + [source for source, _ in plan.unreadable]
    lost = []
    for first in plan.encode:
        place = places.get((str(first.id), str(first.content_hash)))
        if place is None and first.key not in failures:
            lost.append(first.key.uri)
        done += [replace(source, place=place) for source in (first, *plan.shared.get(str(first.id), ()))]
    if lost:
        raise JobError(f"{len(lost)} videos came out neither encoded nor failed, the first {lost[0]}: report this")
    return done
