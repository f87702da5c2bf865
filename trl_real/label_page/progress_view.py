"""How labeling goes, for the lead: `ProgressView`."""

import importlib.util
import io
import threading

from jinja2 import Environment, PackageLoader, select_autoescape

from ..labeling.progress_report import LabelProgress
from ..labeling.queue import LabelQueue


TEMPLATES = Environment(loader=PackageLoader(__package__), autoescape=select_autoescape(default=True))


class ProgressView:
    """
    [`label_progress`] as a page with its plot, computed anew only when there are new labels.

    Args:
        queue ([`LabelQueue`]):
            The pairs and the label log.
    """

    def __init__(self, queue: LabelQueue):
        self.queue = queue
        self._lock = threading.Lock()
        self._known: tuple[int, LabelProgress] | None = None

    def html(self) -> str:
        """The page."""
        report = self._report()
        return TEMPLATES.get_template("progress.html.jinja").render(
            report=report,
            counts=self.queue.progress(),
            overlap=self.queue.overlap,
            has_plot=bool(report.curve) and importlib.util.find_spec("matplotlib") is not None,
        )

    def png(self) -> bytes:
        """The plot."""
        picture = io.BytesIO()
        self._report().plot().savefig(picture, format="png", dpi=150)
        return picture.getvalue()

    def _report(self) -> LabelProgress:
        with self._lock:
            size = self.queue.log.stat().st_size
            if self._known is None or self._known[0] != size:
                self._known = size, self.queue.label_progress()
            return self._known[1]
