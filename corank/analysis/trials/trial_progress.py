"""Reports finished trials and the estimated remaining time."""

from corank.core.types import Progress, Report


class TrialProgress:
    """Reports finished trials of a number, and about how long the rest takes."""

    def __init__(self, trials: int, report: Report, progress: Progress = lambda done, total: None) -> None:
        """`progress` receives how many trials are finished, and of how many."""
        self.trials, self.done, self.trained, self.seconds = trials, 0, 0, 0.0
        self.report, self.progress = report, progress

    def __call__(self, name: str, result: str, seconds: float | None) -> None:
        """Report a trial that took so many seconds, or None if it was read from disk."""
        self.done += 1
        said = f"trial {self.done}/{self.trials}  {name}: {result}"
        if seconds is None:
            said += ", read from disk"
        else:
            self.trained, self.seconds = self.trained + 1, self.seconds + seconds
            left = (self.trials - self.done) * self.seconds / self.trained
            said += f", {seconds:.1f} s, about {left:,.0f} s left"
        self.report(said)
        self.progress(self.done, self.trials)
