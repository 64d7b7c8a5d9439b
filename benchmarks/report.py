"""What a measurement reached against what it was to reach: a table, a JSON file, a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Series

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table. `reached` is a factor, seconds or MiB; more is better, or less."""

    work: str
    wanted: float
    reached: float
    unit: str
    more_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.reached >= self.wanted if self.more_is_better else self.reached <= self.wanted

    def line(self) -> str:
        """For people."""
        sign = ">=" if self.more_is_better else "<="
        wanted, reached = f"{sign} {self.wanted:g}{self.unit}", f"{self.reached:.2f}{self.unit}"
        return f"{self.work:<58} {wanted:>12} {reached:>12}  {'yes' if self.met else 'NO'}"


def faster(work: str, wanted: float, slow: Series, fast: Series) -> Goal:
    """How many times `fast` is faster than `slow`."""
    return Goal(work, wanted, slow.seconds / fast.seconds, "x", more_is_better=True)


def print_series(title: str, results: dict[str, Series]) -> None:
    """A race, a line a contestant."""
    print(f"\n{title}\n{'':34} {'median s':>9} {'fastest':>9} {'slowest':>9} {'CPU s':>9} {'peak MiB':>9}")
    for name, series in results.items():
        seconds = [run.seconds for run in series.runs]
        cpu = sum(run.cpu for run in series.runs) / len(series.runs)
        times = f"{series.seconds:9.3f} {min(seconds):9.3f} {max(seconds):9.3f} {cpu:9.3f}"
        print(f"{name:34} {times} {series.peak / MIB:9.0f}")


def print_goals(goals: list[Goal]) -> None:
    """The table of goals."""
    print(f"\n{'work':<58} {'to reach':>12} {'reached':>12}")
    for goal in goals:
        print(goal.line())


def save(folder: Path, machine: dict[str, object], races: dict[str, dict[str, Series]], goals: list[Goal]) -> None:
    """Write results.json and results.png into `folder`."""
    document = {
        "machine": machine,
        "races": {
            title: {
                name: {"median_s": series.seconds, "runs": [asdict(run) for run in series.runs]}
                for name, series in results.items()
            }
            for title, results in races.items()
        },
        "goals": [asdict(goal) | {"met": goal.met} for goal in goals],
    }
    (folder / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    draw(folder / "results.png", machine, races)
    print(f"\nwritten: {folder / 'results.json'}, {folder / 'results.png'}")


def draw(path: Path, machine: dict[str, object], races: dict[str, dict[str, Series]]) -> None:
    """One panel a race: medians as bars, each with its runs as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        len(races), 1, figsize=(9, 1.2 + sum(0.45 * len(results) + 0.9 for results in races.values())),
        gridspec_kw={"height_ratios": [len(results) + 1 for results in races.values()]}, squeeze=False,
    )  # fmt: skip
    for panel, (title, results) in zip(panels[:, 0], races.items(), strict=True):
        names = list(results)
        colours = ["#1f6f8b" if is_ours(name) else "#b5b5b5" for name in names]
        medians = [series.seconds for series in results.values()]
        labels = [f"{name}   {median:.2f} s" for name, median in zip(names, medians, strict=True)]
        panel.barh(labels, medians, color=colours)
        for row, series in enumerate(results.values()):
            panel.plot([run.seconds for run in series.runs], [row] * len(series.runs), "k.", markersize=3)
        panel.invert_yaxis()
        panel.set_title(title, loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.12)
    cores, memory = machine["cores"], machine["memory_gib"]
    figure.supxlabel(
        f"seconds, whole command, median · {machine['cpu']}, {cores} cores, {memory} GiB · "
        f"Linux {machine['kernel']}, {machine['file_system']}",
        fontsize=8,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def is_ours(name: str) -> bool:
    """Whether a contestant is a command of this project."""
    return name.replace(",", " ").split()[0] not in {"cat", "rsync", "cp", "qemu-img", "nbdkit", "qemu-nbd", "no"}
