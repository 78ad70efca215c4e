"""Reports finished trials and the estimated remaining time."""

from corank.core.types import Report


class TrialProgress:
    """Reports finished trials of a number, and about how long the rest takes."""

    def __init__(self, trials: int, report: Report) -> None:
        self.trials, self.done, self.trained, self.seconds, self.report = trials, 0, 0, 0.0, report

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
