"""mgvr doctor: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from pipelines import doctor_checks as checks
from pipelines.doctor_checks import Finding

Check = Callable[[], list[Finding]]
Report = dict[str, list[Finding]]

_WIDTH = 118


def sections(ray: bool, network: bool) -> dict[str, list[Check]]:
    """The checks to run, by heading, in the order of the table."""
    return {
        "Versions": [checks.python, checks.packages],
        "Video": [checks.codecs, checks.decord],
        "Machine": [checks.processor, checks.memory, checks.shared_memory, checks.disk, checks.gpu],
        "Ray": [checks.ray_settings, *([checks.ray_starts] if ray else [])],
        "Weights": [checks.model_names, checks.weights_reachable if network else checks.weights_here],
    }


def examine(ray: bool, network: bool) -> Report:
    """Run the checks; one that lacks its library says so instead of its answer."""
    return {
        heading: [finding for check in group for finding in _answer(check)]
        for heading, group in sections(ray, network).items()
    }


def _answer(check: Check) -> list[Finding]:
    try:
        return check()
    except (ImportError, OSError) as error:
        return [Finding(check.__name__, "problem", f"can't be checked: {error}", "run `make setup` in the checkout")]


def problems(report: Report) -> int:
    """How many findings keep the demo from working."""
    return sum(finding.state == "problem" for findings in report.values() for finding in findings)


def table(report: Report) -> Iterator[str]:
    """The findings as aligned lines, advice below each."""
    width = max(len(finding.name) for findings in report.values() for finding in findings)
    margin = " " * (2 + len("problem") + 2 + width + 2)
    for heading, findings in report.items():
        yield heading
        for finding in findings:
            head = f"  {finding.state:<7}  {finding.name:<{width}}  "
            yield from textwrap.wrap(finding.detail, _WIDTH, initial_indent=head, subsequent_indent=margin)
            yield from textwrap.wrap(finding.advice, _WIDTH, initial_indent=f"{margin}-> ", subsequent_indent=margin)
    count = problems(report)
    yield ""
    yield "All that the demo needs works here." if not count else f"Problems that keep the demo from working: {count}."


def run(argv: Sequence[str] | None = None) -> int:
    """Print the findings; returns 0 if all that the demo needs works, else 1."""
    parser = argparse.ArgumentParser(prog="mgvr doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--no-ray", action="store_true", help="do not start Ray for a moment (saves some 10 s)")
    parser.add_argument("--network", action="store_true", help="ask the hub whether weights can be downloaded")
    parser.add_argument("--models", action="store_true", help="only list the open_clip names and their weights")
    options = parser.parse_args(argv)
    if options.models:
        _print_models()
        return 0
    report = examine(ray=not options.no_ray, network=options.network)
    if options.json:
        listed = {heading: [asdict(finding) for finding in findings] for heading, findings in report.items()}
        print(json.dumps({"works": problems(report) == 0, "findings": listed}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(table(report)))
    return 1 if problems(report) else 0


def _print_models() -> None:
    import open_clip

    for name in open_clip.list_models():
        print(f"{name:<36}{' '.join(open_clip.list_pretrained_tags_by_model(name)) or '-'}")


if __name__ == "__main__":
    sys.exit(run())
