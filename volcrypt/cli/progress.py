"""Progress of long work on standard error: a bar with rate and time left on a terminal, a plain
line at the start and end of each step otherwise."""

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TextIO

from volcrypt.geometry import format_size


def progress_for(stream: TextIO) -> "Bars | Lines":
    return Bars(stream) if stream.isatty() else Lines(stream)


def _whole(fraction: float, seconds_left: float, *, all_: str = "all steps") -> str:
    return f"{all_} {fraction:.0%}, {_clock(seconds_left)} left"


def _clock(seconds_left: float) -> str:
    minutes, seconds = divmod(round(seconds_left), 60)
    return f"{minutes}:{seconds:02d}"


class Lines(AbstractContextManager["Lines"]):
    """For logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step: str | None = None
        self._done = 0
        self._started = 0.0
        self._whole = ""

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._finish()
        self._step, self._done, self._started = step, 0, time.monotonic()
        size = f" ({format_size(total_bytes)})" if total_bytes is not None else ""
        print(f"{step}{size}", file=self._stream, flush=True)

    def advance(self, done_bytes: int) -> None:
        self._done = done_bytes

    def whole(self, fraction: float, seconds_left: float) -> None:
        """How far all steps together are."""
        self._whole = f"; {_whole(fraction, seconds_left)}"

    def _finish(self) -> None:
        if self._step is None or not self._done:
            return
        seconds = max(time.monotonic() - self._started, 1e-6)
        rate = format_size(int(self._done / seconds))
        text = f"  {format_size(self._done)} in {seconds:.1f} s, {rate}/s{self._whole}"
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """The last step is done. May be called twice."""
        self._finish()
        self._step = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()


class Bars(AbstractContextManager["Bars"]):
    """For a person at a terminal; finished steps stay on the screen."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),  # the only one that gives way on a narrow terminal
            TextColumn("{task.fields[figures]}"),
            console=Console(file=stream),
        )
        self._task: int | None = None
        self._total: int | None = None
        self._step = ""
        self._has_whole = False

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._complete()
        self._total, self._step = total_bytes, step
        self._task = self._bars.add_task(step, total=total_bytes, figures="")
        self._has_whole = False

    def advance(self, done_bytes: int) -> None:
        if self._task is not None:
            task = self._bars.task_ids[self._task]
            self._bars.update(task, completed=done_bytes)
            self._bars.update(task, figures=self._figures())

    def whole(self, fraction: float, seconds_left: float) -> None:
        """How far all steps together are."""
        self._has_whole = True
        if self._task is not None:
            self._bars.update(
                self._bars.task_ids[self._task],
                description=f"{self._step} ({_whole(fraction, seconds_left, all_='all')})",
            )

    def _figures(self) -> str:
        assert self._task is not None
        task = self._bars.tasks[self._task]
        if not task.completed:
            return ""
        figures = [format_size(int(task.completed))]
        speed = task.finished_speed or task.speed
        if speed:
            figures.append(f"{format_size(int(speed))}/s")
        if not self._has_whole and not task.finished and task.time_remaining is not None:
            figures.append(f"{_clock(task.time_remaining)} left")
        return ", ".join(figures)

    def close(self) -> None:
        """The last step is done, and nothing more is drawn. May be called twice."""
        self._complete()
        self._task = None
        self._bars.stop()

    def _complete(self) -> None:
        if self._task is not None:
            task = self._bars.task_ids[self._task]
            size = self._total or self._bars.tasks[task].completed
            self._bars.update(task, description=self._step, total=size or 1, completed=size or 1)
            if size:
                self._bars.update(task, figures=self._figures())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        self._bars.stop()
