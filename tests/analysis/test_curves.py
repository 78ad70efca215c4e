"""The numbers behind a report's plots, counted by hand."""

from pathlib import Path


def test_a_resumed_run_has_its_steps_once(tmp_path: Path) -> None:
    """Steps after the checkpoint from which a run continues were logged twice; the later ones count."""
    from torch.utils.tensorboard import SummaryWriter

    from corank.analysis.report_figures import scalars

    for first, values in ((0, [3.0, 2.0, 9.0]), (2, [1.0, 0.0])):
        with SummaryWriter(str(tmp_path), purge_step=first, filename_suffix=f".{first}") as board:
            for step, value in enumerate(values, start=first):
                board.add_scalar("loss/a", value, step)
    curve = scalars(tmp_path)["loss/a"]
    assert curve.x.tolist() == [0, 1, 2, 3]
    assert curve.y.tolist() == [3, 2, 1, 0]
